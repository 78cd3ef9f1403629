-- mailboxes/verified: verifies a mailbox that has answered its challenge, remembers its URL for a month for all
-- mailboxes, and tells its owner.
-- $1 member   $2 convo_id, or empty   $3 time at which it was set
with verified as (
  update mailboxes set state = 'verified'
   where member_did = $1 and convo_id = $2 and updated_at = $3 and state = 'unverified'
  returning member_did, convo_id, url
), known as (
  insert into mailbox_challenges (whom, sent, proved, forget_at)
  select whom || 'url ' || encode(sha256(convert_to(url, 'UTF8')), 'hex'), 0, true, now() + interval '30 days'
    from verified, unnest(array['member ' || member_did || ' ', '']) whom
   order by whom desc
  on conflict (whom) do update set sent = 0, proved = true, forget_at = excluded.forget_at
)
insert into event_stream (convo_id, recipient_did, event_type, payload)
select nullif(convo_id, ''), member_did, 'mailbox', jsonb_build_object('state', 'verified') from verified
