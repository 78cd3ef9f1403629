mod get_commits;
mod get_epoch;
