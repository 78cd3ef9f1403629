pub mod set_mailbox;
