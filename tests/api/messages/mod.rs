mod get_messages;
mod send_message;
mod update_cursor;
mod update_read;
