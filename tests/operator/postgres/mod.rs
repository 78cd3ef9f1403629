//! The DBA's side: comments, the recommended settings, roles with no more rights than they need, and the queries of docs/postgres.md.

mod comments;
mod plans;
mod queries;
mod roles;
mod settings;

/// Returns the text of a file of the repository.
fn read(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap()
}
