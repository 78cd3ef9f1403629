pub mod get_commits;
pub mod get_epoch;
