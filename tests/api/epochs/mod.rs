mod conflict;
mod get_commits;
mod get_epoch;
mod server_incarnation;
