mod add_members;
mod create_convo;
mod get_convos;
mod leave_convo;
mod remove_member;
mod spoken;
mod submit_commit;
