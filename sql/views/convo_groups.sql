-- convo_groups: every MLS group that a conversation has or had, with the entries that belong to it.
create view convo_groups as
select id as convo_id, generation, group_id, cipher_suite, initial_epoch, current_epoch as final_epoch, group_seq as first_seq, last_seq,
       null::timestamptz as ended_at
  from conversations
union all
select convo_id, generation, group_id, cipher_suite, initial_epoch, final_epoch, first_seq, last_seq, ended_at from past_groups;
comment on view convo_groups is 'The present and the past MLS groups of each conversation.';
