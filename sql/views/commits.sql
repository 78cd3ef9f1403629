-- commits: the commit that created each epoch, whether or not its bytes are stored.
create view commits as
select convo_id, epoch, seq, sender_did, body_hash, true as kept from messages where message_type = 'commit'
union all
select convo_id, epoch, seq, sender_did, body_hash, false from retired_commits;
comment on view commits is 'How each epoch was reached, whether or not the bytes of the commit are kept.';
