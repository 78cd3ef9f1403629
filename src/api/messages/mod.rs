pub mod get_messages;
pub mod send_message;
pub mod update_cursor;
pub mod update_read;
