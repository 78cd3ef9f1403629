//! The DBA's side: comments, the recommended settings, roles with no more rights than they need, and the queries of docs/postgres.md.

mod comments;
mod plans;
mod queries;
mod roles;
mod settings;

use catbird_testkit::cluster::OwnCluster;

/// Starts a cluster with the recommended settings and these, and with pg_stat_statements.
async fn recommended(more: &str) -> OwnCluster {
    let mut cluster = OwnCluster::start().await;
    cluster.configure(&format!("{}\n{more}\n", read("ops/postgres/postgresql.conf")));
    cluster.stop().await;
    cluster.resume().await;
    cluster.connect().await.batch_execute("create extension pg_stat_statements").await.unwrap();
    cluster
}

/// Returns the text of a file of the repository.
fn read(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap()
}
