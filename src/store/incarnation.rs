//! Incarnations: times in which PostgreSQL gave no transaction id out twice.
//!
//! After a crash, a promotion or a recovery ids come again, and a dump brings rows along whose ids mean nothing here. So whatever compares
//! ids has to know that they are of one numbering. `sql/migrations/V017__incarnations.sql` keeps the incarnations, `present_incarnation` is
//! the present one or nothing, and whoever finds nothing begins it ([`renew`]).
//!
//! # Why it holds
//!
//! **No id of an incarnation is given out twice in it.** What makes ids come again are a crash or promotion, which empties the unlogged
//! witness; another start of the server, which the witness names; and another database or table, which its file names. Any of these makes
//! `present_incarnation` empty.
//!
//! **Nothing is written in an incarnation below its floor, nor before it has begun.** Every transaction of the server looks first
//! (`tx/lock`, `tx/name`, `tx/take`), in the statement that gives it its id, and writes nothing where it finds nothing. If it finds the
//! incarnation, its snapshot is younger than the incarnation's beginning, and so is its id, which the floor was not above. A
//! transaction does not survive what ends an incarnation.
//!
//! **Rows of one era can be compared by number.** After a crash, a promotion or a recovery of the same database the numbers go on: what has
//! survived was written below the next id, and so below the new floor. That is the same era. In another database, or a table that a
//! dump has made, rows may have any number. Then an era begins, rows carry it (a column whose default is a constant, so that it costs
//! those who insert nothing), and rows of older eras count as older than all of this one. Nothing has to be rewritten.
//!
//! **A cursor of an older incarnation misses nothing.** In the same era: what its snapshot saw was committed below its end; what has been
//! written since the next incarnation began is not below that one's floor. So what it may lack is what it did not see, or lies at or
//! above the lowest floor since. In another era nobody can say what it lacks, and it is refused. So it is where its holder has read
//! something at or above that floor: a recovery to an earlier point, or a standby that lacked the end, has lost that. Its key is the
//! incarnation's own, so that an incarnation of the same number in a future that was lost is not taken for this one.

use super::query::query;
use super::session::Session;
use super::{Abort, deadline, failure};

query! {
    RENEW = "incarnation/renew" ();
}

/// Begins the present incarnation unless somebody has, on a connection that is in no transaction.
pub(super) async fn renew(session: &Session) -> Result<(), Abort> {
    session.doubt();
    let Ok(rows) = tokio::time::timeout(deadline::READ, session.rows(&RENEW, &[])).await else {
        return Err(failure::overloaded("beginning an incarnation").into());
    };
    let incarnation = rows?.first().map(|row| row.get::<_, i32>("id"));
    session.settle();
    tracing::warn!(incarnation, "transaction ids may repeat or belong to another cluster: a new incarnation has begun");
    Ok(())
}
