//! Open files: each connection is one.

/// Files reserved for other purposes than HTTP connections and connections to PostgreSQL.
const RESERVED: u64 = 256;

/// Returns the number of HTTP connections for which a limit on open files leaves room, beside this many to PostgreSQL.
pub fn room(files: u64, database_connections: usize) -> usize {
    let others = RESERVED + database_connections as u64;
    usize::try_from(files.saturating_sub(others)).unwrap_or(usize::MAX)
}
