//! Dead rows, and tables that autovacuum leaves out.

use crate::store::{ConnectError, Operator, TableFacts};

use super::Diagnosis;

/// Dead rows up to which no table is slow.
const FEW_DEAD: i64 = 10_000;

pub(super) async fn examine(db: &Operator) -> Result<Vec<Diagnosis>, ConnectError> {
    let tables = db.table_facts().await?;
    let mut found: Vec<Diagnosis> = tables.iter().filter_map(bloat).collect();
    if found.is_empty() {
        let dead: i64 = tables.iter().map(|table| table.dead).sum();
        found.push(Diagnosis::ok(
            "dead_rows",
            format!("autovacuum keeps up: {dead} dead rows in {} tables", tables.len()),
        ));
    }
    found.extend(tables.iter().filter(|table| table.is_left_out).map(left_out));
    Ok(found)
}

fn bloat(TableFacts { name, rows, dead, vacuumed, .. }: &TableFacts) -> Option<Diagnosis> {
    let last = match vacuumed {
        Some(age) => format!("{} minutes ago", age.as_secs() / 60),
        None => "never, since statistics were reset".to_owned(),
    };
    (*dead > FEW_DEAD && *dead > rows / 2).then(|| {
        Diagnosis::weak(
            "dead_rows",
            format!("{name} has {dead} dead rows and {rows} others; last vacuumed {last}"),
            "P10: statements read dead rows too, and become slower until they time out",
            format!("`vacuum (verbose) {name}` says what keeps them: old transactions, or nothing, if autovacuum is too slow (ops/postgres/hot_tables.sql)"),
        )
    })
}

fn left_out(TableFacts { name, .. }: &TableFacts) -> Diagnosis {
    Diagnosis::weak(
        "autovacuum_enabled",
        format!("autovacuum leaves {name} out"),
        "P10: its dead rows stay, and statements become slower until they time out",
        format!("`alter table {name} reset (autovacuum_enabled)`"),
    )
}
