//! Where entries are handed over beside the log.

pub mod get_mailbox;
pub mod set_mailbox;
