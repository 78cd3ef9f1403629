-- key_packages: a key package was used for two conversations, or by another caller than it was issued to (P8)
select min(w.convo_id) as convo_id, 'key package ' || encode(w.key_package_hash, 'hex') || ' opens Welcomes of '
       || count(distinct w.convo_id) || ' conversations' as finding
  from welcome_messages w join key_packages k on k.hash = w.key_package_hash
 where not k.last_resort
 group by w.key_package_hash having count(distinct w.convo_id) > 1
union all
-- The conversation of a used package is erased a day later.
select w.convo_id, 'key package ' || encode(w.key_package_hash, 'hex') || ' is used here but recorded as used in '
       || coalesce(k.consumed_convo, 'no conversation')
  from welcome_messages w join key_packages k on k.hash = w.key_package_hash
 where not k.last_resort and k.consumed_convo is distinct from w.convo_id and k.consumed_convo is distinct from ''
