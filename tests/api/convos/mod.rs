mod add_members;
mod create_convo;
mod get_convos;
mod leave_convo;
mod process_external_commit;
mod remove_member;
mod spoken;
mod submit_commit;
