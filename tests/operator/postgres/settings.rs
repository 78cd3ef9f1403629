//! The recommended postgresql.conf: PostgreSQL starts with it, and the server is content.

use catbird_testkit::cluster::OwnCluster;
use catbird_testkit::fleet::{Fleet, Mode};

use super::read;

#[tokio::test(flavor = "multi_thread")]
async fn postgres_starts_with_the_recommended_configuration_and_the_server_is_content() {
    let mut cluster = OwnCluster::start().await;
    cluster.configure(&read("ops/postgres/postgresql.conf"));
    cluster.stop().await;
    cluster.resume().await;
    let client = cluster.connect().await;
    // The command line of a throw-away cluster overrides some of them.
    let wrong = "select f.name || ' = ' || f.setting || ': ' || f.error from pg_file_settings f left join pg_settings s using (name)
                  where f.error is not null and s.source is distinct from 'command line'";
    let wrong: Vec<String> = client.query(wrong, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    for (setting, value) in [
        ("shared_preload_libraries", "pg_stat_statements"),
        ("max_locks_per_transaction", "256"),
        ("jit", "off"),
        ("log_parameter_max_length", "0"),
        ("client_connection_check_interval", "5s"),
    ] {
        let row = client.query_one("select current_setting($1)", &[&setting]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), value, "{setting}");
    }
    client.batch_execute(&read("ops/postgres/hot_tables.sql")).await.unwrap();
    client.batch_execute(&read("ops/postgres/hot_tables.sql")).await.unwrap();

    let fleet = Fleet::start(&[Mode::Advisory], &cluster.config(), &cluster.url()).await;
    let mut members = fleet.conversation(2).await;
    members[0].send("a text").await.unwrap();
    fleet.check().await;
}
