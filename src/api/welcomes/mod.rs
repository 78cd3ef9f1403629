pub mod confirm_welcome;
pub mod get_welcome;
