//! Migrations since the previous release only expand the schema: the previous release, which runs until the last replica is upgraded,
//! finds everything that it uses, and nothing that refuses what it writes.

use std::collections::BTreeSet;
use std::path::Path;

use catbird_testkit::cluster::{TestDatabase, empty_database};
use tokio_postgres::Client;

use super::previous_migration;

/// Changes since the previous release that the comparison reports and that do it no harm: the beginning of the report, and the reason.
/// Empty it when a release is made.
const HARMLESS: &[(&str, &str)] = &[
    ("new: CREATE TRIGGER conversations_position_check", "The half of the former check that concerns positions."),
    ("new: CREATE TRIGGER conversations_group_check", "The other half of the former check: that of the group."),
    ("new: CREATE TRIGGER conversations_seq_check", "A part of the former check of positions."),
    (
        "new: CREATE TRIGGER welcome_messages_devices",
        "Notes what the former trigger noted, without starting for other rows.",
    ),
    ("new: constraint key_packages_last_resort_check", "Wider than the former check."),
    ("new: constraint event_stream_type_check", "The same types as one constant."),
    ("new: CREATE TRIGGER blobs_counted", "The previous release writes no blobs."),
    ("new: constraint blobs_", "The previous release writes no blobs."),
    ("new: unique blobs (key, convo_id)", "The previous release writes no blobs."),
    ("new: required blobs.", "The previous release writes no blobs."),
    ("new: constraint conversations_storage_model_check", "About a column that the previous release leaves null."),
    ("new: constraint messages_body_check", "About columns that the previous release leaves null."),
    ("new: CREATE TRIGGER members_joined", "Counts what statements of the previous release insert, by row."),
    ("new: CREATE TRIGGER members_moved", "Counts what statements of the previous release change, as before."),
];

const CATALOG: &str = include_str!("catalog.sql");

/// A row of [`CATALOG`]: the fact that it is about, the fact, and whether a build relies on it.
type Fact = (String, String, bool);

async fn facts(client: &Client) -> BTreeSet<Fact> {
    client.query(CATALOG, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Returns what the previous build would miss or violate.
fn harm(before: &BTreeSet<Fact>, after: &BTreeSet<Fact>) -> Vec<String> {
    let were_there: BTreeSet<&String> = before.iter().map(|(_, fact, _)| fact).collect();
    let gone =
        before.difference(after).filter(|(.., relied_on)| *relied_on).map(|(_, fact, _)| format!("gone: {fact}"));
    let new = after.difference(before).filter(|(of, _, relied_on)| !relied_on && were_there.contains(of));
    gone.chain(new.map(|(_, fact, _)| format!("new: {fact}"))).collect()
}

/// Applies the migrations of a range, each in its transaction, as refinery does.
async fn migrate(client: &Client, range: std::ops::RangeInclusive<i64>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/migrations");
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in names.iter().filter(|name| range.contains(&name[1..4].parse().unwrap())) {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        client
            .batch_execute(&format!("begin; {text}; commit"))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
}

/// Returns a database with the schema of the previous release.
async fn previous() -> (TestDatabase, Client) {
    let database = empty_database().await;
    let client = database.connect().await;
    // Refinery's own, on which a migration comments.
    let history =
        "create table refinery_schema_history (version int primary key, name text, applied_on text, checksum text)";
    client.batch_execute(history).await.unwrap();
    migrate(&client, 1..=previous_migration()).await;
    (database, client)
}

#[tokio::test]
async fn migrations_since_the_previous_release_only_expand_the_schema() {
    let (_database, client) = previous().await;
    let before = facts(&client).await;
    migrate(&client, previous_migration() + 1..=i64::MAX).await;
    let harm = harm(&before, &facts(&client).await);
    let harmless = |found: &&String| HARMLESS.iter().any(|(known, _)| found.starts_with(known));
    let rest: Vec<_> = harm.iter().filter(|found| !harmless(found)).collect();
    assert!(rest.is_empty(), "the previous release still runs during the upgrade (docs/upgrading.md): {rest:#?}");
    let idle: Vec<_> =
        HARMLESS.iter().filter(|(known, _)| !harm.iter().any(|found| found.starts_with(known))).collect();
    assert!(idle.is_empty(), "no such change: {idle:?}");
}

#[tokio::test]
async fn each_kind_of_change_that_harms_the_previous_release_is_found() {
    let (_database, client) = previous().await;
    let before = facts(&client).await;
    for (change, found) in [
        ("alter table members drop column last_read_at cascade", "gone: column members.last_read_at"),
        ("alter table members rename column last_read_at to read_at", "gone: column members.last_read_at"),
        ("alter table cursors rename to positions", "gone: relation cursors"),
        ("alter table messages alter column epoch type numeric", "gone: column messages.epoch bigint"),
        ("alter table members add column role text not null", "new: required members.role"),
        ("alter table members alter column left_by set not null", "new: not null members.left_by"),
        ("alter table members add constraint c check (joined_seq > 1) not valid", "new: constraint c CHECK"),
        ("create unique index u on members (member_did)", "new: unique members (member_did)"),
        ("alter table members drop constraint members_pkey cascade", "gone: unique members ("),
        ("alter function token_slot(timestamptz) rename to slot_of", "gone: function token_slot"),
        (
            "create trigger t before insert on members for each row execute function refuse_position()",
            "new: CREATE TRIGGER t",
        ),
        ("drop view present_incarnation", "gone: relation present_incarnation"),
    ] {
        client.batch_execute(&format!("begin; {change}")).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        let harm = harm(&before, &facts(&client).await);
        client.batch_execute("rollback").await.unwrap();
        assert!(harm.iter().any(|one| one.starts_with(found)), "{change}: {harm:?}");
    }
    for change in [
        "alter table members add column role text not null default 'member'",
        "create table roles (id bigint primary key, name text not null check (name <> ''))",
        "create index i on members (left_by)",
        "alter table members drop constraint members_read_check",
    ] {
        let Ok(()) = client.batch_execute(&format!("begin; {change}")).await else {
            client.batch_execute("rollback").await.unwrap();
            panic!("{change}");
        };
        let harm = harm(&before, &facts(&client).await);
        client.batch_execute("rollback").await.unwrap();
        assert!(harm.is_empty(), "{change}: {harm:?}");
    }
}
