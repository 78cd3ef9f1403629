pub mod add_members;
pub mod create_convo;
pub mod get_convos;
pub mod leave_convo;
