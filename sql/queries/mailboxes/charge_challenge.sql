-- mailboxes/charge_challenge: counts a challenge of a member, to a URL, or both, and deletes some expired counts. No
-- row: the daily maximum is reached.
-- $1 whom   $2 most
with forgotten as (
  delete from mailbox_challenges
   where whom in (select whom from mailbox_challenges where forget_at <= now() and whom <> $1
                   order by forget_at limit 10 for update skip locked)
)
insert into mailbox_challenges as c (whom) values ($1)
on conflict (whom) do update
   set sent = case when c.forget_at <= now() then 1 else c.sent + 1 end,
       proved = c.proved and c.forget_at > now(),
       forget_at = case when c.forget_at <= now() then excluded.forget_at else c.forget_at end
 where c.forget_at <= now() or c.proved or c.sent < $2
returning 1
