mod add_members;
mod create_convo;
mod get_convos;
mod leave_convo;
mod process_external_commit;
mod remove_member;
pub mod reset_convo;
mod spoken;
mod submit_commit;
