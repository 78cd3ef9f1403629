-- commit_reports/count_wedged: returns the number of wedged conversations.
select count(*) as wedged from wedged_convos
