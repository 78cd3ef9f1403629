-- duplicate_epochs: two commits created the same epoch of a group (P1)
select convo_id, 'epoch ' || epoch || ' of generation ' || generation || ' was created by ' || count(*) || ' commits' as finding
  from commits group by convo_id, generation, epoch having count(*) > 1
