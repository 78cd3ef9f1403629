//! The schema: its version, and whether what the migrations made is there and in force.

use std::collections::BTreeMap;

use crate::store::{Applied, ConnectError, Operator, SchemaObject, migrations};

use super::Diagnosis;

/// The indexes, constraints and triggers that the migrations make, one line each: kind, table, name, and `guards` or `speeds`.
/// A test writes it (docs/development.md).
const OBJECTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/objects.txt"));

/// Compares the applied migrations with those of this build.
pub(super) fn examine_history(applied: Option<&[Applied]>) -> Diagnosis {
    const SUBJECT: &str = "schema_version";
    const MIGRATE: &str = "Run `catbird-server migrate` as the owner of the tables; `serve` does it too, with a role that may create tables";
    let build = migrations();
    let newest = build.last().map_or(0, |migration| migration.version);
    let Some(applied) = applied else {
        return Diagnosis::fatal(
            SUBJECT,
            "the database does not have this server's tables",
            "P10: servers are not ready, and refuse every request with 503",
            MIGRATE,
        );
    };
    let by_version: BTreeMap<i64, &Applied> = applied.iter().map(|migration| (migration.version, migration)).collect();
    let pending = build.iter().filter(|migration| !by_version.contains_key(&migration.version)).count();
    if pending > 0 {
        return Diagnosis::fatal(
            SUBJECT,
            format!("{pending} migrations of this build are not applied"),
            "P10: servers of this build are not ready, and refuse every request with 503",
            MIGRATE,
        );
    }
    if let Some(other) = build.iter().find(|migration| by_version.get(&migration.version) != Some(migration)) {
        return Diagnosis::fatal(
            SUBJECT,
            format!("migration {} ({}) was applied in another form than this build has", other.version, other.name),
            "P10: the server does not start, and its tables may differ from what it expects",
            "Find out which build applied it (`select * from refinery_schema_history`), and use that one or a later one",
        );
    }
    match applied.len() - build.len() {
        0 => Diagnosis::ok(SUBJECT, format!("all {newest} migrations are applied")),
        later => Diagnosis::ok(SUBJECT, format!("all {newest} migrations are applied, and {later} of a later build")),
    }
}

/// Compares the indexes, constraints and triggers with those that the migrations make. A later build may have replaced some.
pub(super) async fn examine_objects(
    db: &Operator,
    applied: Option<&[Applied]>,
) -> Result<Vec<Diagnosis>, ConnectError> {
    let found = db.schema_objects().await?;
    let is_exact = applied.is_some_and(|applied| applied.len() == migrations().len());
    let missing = expected().filter(|expected| is_exact && !found.iter().any(|object| line(object) == *expected));
    let mut diagnoses: Vec<Diagnosis> = missing.map(missing_object).collect();
    diagnoses.extend(found.iter().filter(|object| !object.in_force).map(object_out_of_force));
    if diagnoses.is_empty() {
        diagnoses.push(Diagnosis::ok(
            "schema_objects",
            format!("{} indexes, constraints and triggers are in force", found.len()),
        ));
    }
    Ok(diagnoses)
}

fn expected() -> impl Iterator<Item = &'static str> {
    OBJECTS.lines().filter(|line| !line.starts_with('#'))
}

/// The line of an object in the list.
fn line(SchemaObject { kind, table, name, guards, .. }: &SchemaObject) -> String {
    format!("{kind} {table} {name} {}", if *guards { "guards" } else { "speeds" })
}

const GUARDS: &str = "P1, P2, P3, P8: the database no longer refuses rows that break an invariant";
const SPEEDS: &str = "P10: statements read whole tables, and time out as these grow";

fn missing_object(expected: &str) -> Diagnosis {
    let mut words = expected.split(' ');
    let (kind, table, name) =
        (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let found = format!("the {kind} {name} of {table} is missing");
    let advice =
        format!("Create it as sql/migrations does (`grep -r {name} sql/migrations`), and run `catbird-server check`");
    match words.next() {
        Some("guards") => Diagnosis::fatal("schema_objects", found, GUARDS, advice),
        _ => Diagnosis::weak("schema_objects", found, SPEEDS, advice),
    }
}

fn object_out_of_force(SchemaObject { kind, table, name, guards, .. }: &SchemaObject) -> Diagnosis {
    let (found, advice) = match kind.as_str() {
        "index" => (
            format!("the index {name} of {table} is invalid"),
            format!("`reindex index concurrently {name}`; or drop it, if it is the rest of such a command"),
        ),
        "trigger" => (
            format!("the trigger {name} of {table} is disabled"),
            format!("`alter table {table} enable trigger {name}`, and run `catbird-server check`"),
        ),
        _ => (
            format!("the {kind} {name} of {table} is not enforced"),
            format!("`alter table {table} enable trigger all`, and run `catbird-server check`"),
        ),
    };
    match guards {
        true => Diagnosis::fatal("schema_objects", found, GUARDS, advice),
        false => Diagnosis::weak("schema_objects", found, SPEEDS, advice),
    }
}
