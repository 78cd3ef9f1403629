mod conflict;
mod get_commits;
mod get_epoch;
mod report_commit;
mod server_incarnation;
