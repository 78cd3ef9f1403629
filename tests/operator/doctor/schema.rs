//! The schema: the list of what migrations make, and databases that lack a part of it.

use std::fmt::Write;

use catbird_server::store::{Operator, SchemaObject};
use catbird_testkit::cluster::database;

use super::doctor;

/// Rewrites the list if UPDATE_DOCS is set.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a switch of this test, not a setting of the server")]
async fn the_list_of_indexes_constraints_and_triggers_is_what_the_migrations_make() {
    let database = database().await;
    let objects = Operator::connect(&database.config).await.unwrap().schema_objects().await.unwrap();
    let mut list = "# What the migrations make: UPDATE_DOCS=1 cargo test --test operator doctor::schema\n".to_owned();
    for SchemaObject { kind, table, name, guards, in_force } in objects {
        assert!(in_force, "{name}");
        writeln!(list, "{kind} {table} {name} {}", if guards { "guards" } else { "speeds" }).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/objects.txt");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, list).unwrap();
    } else {
        let current = std::fs::read_to_string(path).unwrap();
        assert!(
            current == list,
            "sql/objects.txt is out of date: UPDATE_DOCS=1 cargo test --test operator doctor::schema"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_invalid_index_and_a_trigger_or_constraint_that_is_gone_are_named() {
    let database = database().await;
    let client = database.connect().await;
    let harm = "
        drop index envelopes_due_idx;
        alter table commit_reports drop constraint commit_reports_pkey;
        alter table cursors disable trigger all;
        update pg_index set indisvalid = false where indexrelid = 'welcome_messages_pkey'::regclass;
        alter table messages disable trigger messages_horizon;
        alter table conversations drop constraint conversations_epoch_check";
    for statement in harm.split(';') {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let said = doctor(&database.url, &[]).await;
    for (severity, found) in [
        ("weak", "index envelopes_due_idx of envelopes is missing"),
        ("fatal", "index commit_reports_pkey of commit_reports is missing"),
        ("fatal", "constraint cursors_member_fkey of cursors is not enforced"),
        ("fatal", "index welcome_messages_pkey of welcome_messages is invalid"),
        ("fatal", "trigger messages_horizon of messages is disabled"),
        ("fatal", "constraint conversations_epoch_check of conversations is missing"),
    ] {
        said.names("schema_objects", severity, found);
    }
    let named = said.against().iter().filter(|(subject, ..)| *subject == "schema_objects").count();
    assert_eq!((said.code, named), (Some(1), 6), "{:#?}", said.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_that_are_pending_or_were_edited_are_named_and_later_ones_are_not() {
    let database = database().await;
    let client = database.connect().await;
    let run = async |statement: &str| client.batch_execute(statement).await.unwrap();
    run("insert into refinery_schema_history select version + 1, 'later', applied_on, checksum from refinery_schema_history
          order by version desc limit 1")
    .await;
    let said = doctor(&database.url, &[]).await;
    assert!(!said.against().iter().any(|(subject, ..)| subject.starts_with("schema")), "{:#?}", said.report);
    assert!(said.report.to_string().contains("and 1 of a later build"), "{:#?}", said.report);
    run("update refinery_schema_history set checksum = '1' where version = 2").await;
    doctor(&database.url, &[]).await.names(
        "schema_version",
        "fatal",
        "migration 2 (messages) was applied in another form",
    );
    run("delete from refinery_schema_history where version >= 40").await;
    doctor(&database.url, &[]).await.names("schema_version", "fatal", "migrations of this build are not applied");
}
