mod set_mailbox;
