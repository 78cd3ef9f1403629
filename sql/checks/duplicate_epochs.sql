-- duplicate_epochs: two commits created the same epoch (P1)
select convo_id, 'epoch ' || epoch || ' was created by ' || count(*) || ' commits' as finding
  from commits group by convo_id, epoch having count(*) > 1
