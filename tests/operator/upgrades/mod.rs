//! Upgrades without downtime: the previous release and this one run side by side on one schema (docs/upgrading.md).

mod expand;
mod side_by_side;

/// The previous release.
const PREVIOUS: &str = include_str!("../../../sql/previous_release");

/// Returns the newest migration of the previous release.
fn previous_migration() -> i64 {
    let line = PREVIOUS.lines().find_map(|line| line.strip_prefix("migration="));
    line.and_then(|number| number.parse().ok()).expect("sql/previous_release has the newest migration")
}
