-- mailboxes/claim_challenge: claims one mailbox with a due challenge, as an attempt that counts as failed unless it
-- ends before $1. A mailbox that could not be challenged for a day is claimed in order to be refused, unless no replica
-- tried. The challenge is proved if another mailbox of the member has verified the same URL and secret.
-- $1 seconds   $2 hosts that have no room
with due as materialized (
  select member_did, convo_id from mailboxes
   where provider = 'webhook' and state = 'unverified' and challenge_at <= statement_timestamp()
     and (host <> all($2::text[]) or begun_at < statement_timestamp() - interval '1 day')
   order by challenge_at limit 1 for update skip locked
)
update mailboxes b set challenges = b.challenges + 1, challenge_at = statement_timestamp() + make_interval(secs => $1)
  from due where b.member_did = due.member_did and b.convo_id = due.convo_id
returning b.member_did, b.convo_id, b.updated_at, b.url, b.host, b.zone, b.secret, b.challenges,
          b.begun_at < statement_timestamp() - interval '1 day' and b.host = any($2::text[]) as late,
          exists (select from mailboxes o where o.member_did = b.member_did and o.url = b.url and o.secret = b.secret
                                            and o.state = 'verified') as proved,
          replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '') as token
