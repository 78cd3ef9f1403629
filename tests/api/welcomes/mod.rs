mod confirm_welcome;
mod get_welcome;
