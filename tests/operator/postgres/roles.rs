//! The roles of ops/postgres/roles.sql: each can do what it must, and no more.

use catbird_client::persona::Persona;
use catbird_testkit::cluster::OwnCluster;
use catbird_testkit::fleet::{Fleet, Mode, Replica, run, run_with};
use tokio_postgres::{Client, NoTls};

use super::read;

/// URL of the cluster's database for another role.
fn url(cluster: &OwnCluster, role: &str) -> String {
    cluster.url().replace("catbird@", &format!("{role}@"))
}

async fn connect(cluster: &OwnCluster, role: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&url(cluster, role), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Runs statements of which each must be refused for lack of a privilege, or because the role only reads.
async fn refused(client: &Client, statements: &[&str]) {
    for statement in statements {
        let error = client.batch_execute(statement).await.expect_err(statement);
        let code = error.code().unwrap_or_else(|| panic!("{statement}: {error}")).code();
        // insufficient_privilege, read_only_sql_transaction
        assert!(["42501", "25006"].contains(&code), "{statement}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_has_no_ddl_and_dbas_only_read() {
    let mut cluster = OwnCluster::start_empty().await;
    let superuser = cluster.connect().await;
    superuser.batch_execute(&read("ops/postgres/roles.sql")).await.unwrap();

    // Without tables, a server that may not create them says so.
    let (code, _, errors) = run("serve", &url(&cluster, "catbird_app")).await;
    assert!(code.is_some_and(|code| code != 0) && errors.contains("catbird-server migrate"), "{code:?} {errors}");
    let (code, said, errors) = run("migrate", &url(&cluster, "catbird_owner")).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{said}");
    connect(&cluster, "catbird_owner").await.batch_execute(&read("ops/postgres/roles.sql")).await.unwrap();

    let mut fleet =
        Fleet::start(&[Mode::Advisory, Mode::Actors], &cluster.config(), &url(&cluster, "catbird_app")).await;
    let mut members = fleet.conversation(3).await;
    let (sent, _) = members.split_at_mut(1);
    sent[0].send("by the application's role").await.unwrap();
    assert_eq!(members[1].catch_up().await.unwrap(), ["by the application's role"]);
    members[1].leave().await.unwrap();
    let suspend = ["admin", "suspend", "did:plc:x", "--reason", "a test"];
    let (code, _, errors) = run_with(&suspend, &url(&cluster, "catbird_app")).await;
    assert_eq!(code, Some(0), "{errors}");
    // The slots of used tokens are emptied by a function of the owner.
    let app = connect(&cluster, "catbird_app").await;
    for slot in 0..16 {
        app.query_one("select empty_used_tokens($1)", &[&slot]).await.unwrap();
    }
    refused(
        &app,
        &[
            "create table mine (id int)",
            "create schema mine",
            "alter table messages add column mine int",
            "alter table messages disable trigger all",
            "drop table envelopes",
            "truncate messages",
            "create function mine() returns int language sql return 1",
            "drop view conversation_locks",
            "update refinery_schema_history set version = 0",
            "create role mine",
            "update admin_audit set reason = 'another'",
            "delete from admin_audit",
            "truncate admin_audit",
            "copy messages to program 'cat'",
        ],
    )
    .await;

    let dba = connect(&cluster, "catbird_dba").await;
    for query in [
        "select * from conversations c join messages m on m.convo_id = c.id",
        "select * from conversation_locks",
        "select * from legacy.members",
        "select member_did, url from mailboxes",
        "select query from pg_stat_activity",
        "select command, target, reason from admin_audit",
    ] {
        dba.batch_execute(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    }
    let (code, said, errors) = run("check", &url(&cluster, "catbird_dba")).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    dba.batch_execute("set default_transaction_read_only = off").await.unwrap();
    refused(
        &dba,
        &[
            "delete from admin_audit",
            "insert into suspensions (did, reason) values ('did:plc:x', 'x')",
            "update conversations set current_epoch = current_epoch + 1",
            "delete from messages",
            "truncate used_tokens",
            "create table mine (id int)",
            "create temporary table mine (id int)",
            "select secret from mailboxes",
            "select key from caller_names",
            "select cursor_key from incarnations",
            "select renew_incarnation()",
        ],
    )
    .await;

    // After a restore the application begins the next era by itself, although that changes tables.
    superuser.batch_execute("update incarnations set database_oid = 1; delete from incarnation_witness").await.unwrap();
    members[0].catch_up().await.unwrap();
    members[0].send("in the next era").await.unwrap();
    let era = "select max(era) > 1 and (select column_default::int from information_schema.columns
                where table_name = 'messages' and column_name = 'era') = max(era) from incarnations";
    assert!(superuser.query_one(era, &[]).await.unwrap().get::<_, bool>(0));

    // And a crash.
    cluster.crash().await;
    cluster.resume().await;
    for replica in &mut fleet.replicas {
        replica.ready().await;
    }
    members[0].send("after a crash").await.unwrap();
    fleet.check().await;
    let again = Replica::start(Mode::Advisory, &url(&cluster, "catbird_app"), &[]).await;
    let returned = Persona::new(members[0].xrpc.at(again.base.parse().unwrap()));
    assert_eq!(returned.xrpc.query("getConvos", &[]).await.unwrap().status, 200);
}
