//! SQL statements: name, text from `sql/queries`, and types of the parameters.

use tokio_postgres::types::Type;

/// One SQL file. The name is the label in metrics. The comment at the beginning of the file shows it in
/// `pg_stat_activity`.
#[derive(Debug)]
pub struct Query {
    pub name: &'static str,
    pub text: &'static str,
    pub types: &'static [Type],
}

/// Text of `sql/<folder>/<name>.sql`.
macro_rules! sql {
    ($folder:literal, $name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/", $folder, "/", $name, ".sql"))
    };
}

/// Declares statements: `query! { FIND = "epochs/find" (TEXT); }`.
macro_rules! query {
    ($($constant:ident = $path:literal ($($ty:ident),*);)*) => {
        $(pub(in crate::store) const $constant: $crate::store::query::Query = $crate::store::query::Query {
            name: $path,
            text: $crate::store::sql!("queries", $path),
            types: &[$(tokio_postgres::types::Type::$ty),*],
        };)*
    };
}

pub(crate) use {query, sql};
