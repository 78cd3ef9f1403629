mod get_messages;
mod send_message;
mod submit_proposal;
mod update_cursor;
mod update_read;
