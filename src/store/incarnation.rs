//! Incarnations: periods in which PostgreSQL assigned no transaction id twice.
//!
//! After a crash, a promotion or a recovery, PostgreSQL assigns ids again. A dump contains rows whose ids mean nothing
//! in the new cluster. Ids can therefore only be compared within one numbering. The table of
//! `sql/migrations/V017__incarnations.sql` stores the incarnations, and `present_incarnation` is the present one or
//! nothing. Every transaction checks it in the statement that assigns its id, and writes nothing without it; [`renew`]
//! starts the next incarnation.
//!
//! `docs/incarnations.md` proves why ids of one incarnation, rows of one era and cursors of older incarnations can be
//! compared.

use super::query::query;
use super::session::Session;
use super::{Abort, deadline, failure};

query! {
    RENEW = "incarnation/renew" ();
}

/// Starts the present incarnation, unless another replica has, on a connection without a transaction.
pub(super) async fn renew(session: &Session) -> Result<(), Abort> {
    session.mark_dirty();
    let Ok(rows) = tokio::time::timeout(deadline::READ, session.rows(&RENEW, &[])).await else {
        return Err(failure::overloaded("beginning an incarnation").into());
    };
    let incarnation = rows?.first().map(|row| row.get::<_, i32>("id"));
    session.mark_clean();
    tracing::warn!(incarnation, "transaction ids may repeat or belong to another cluster: a new incarnation has begun");
    Ok(())
}
