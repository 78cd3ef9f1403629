-- commit_reports/is_wedged: returns whether a conversation is wedged.
-- $1 convo_id
select exists (select from wedged_convos where convo_id = $1) as wedged
