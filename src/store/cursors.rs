//! Event cursors and read positions of members.

use crate::ids::{ConvoId, Did};

use super::query::query;
use super::session::Queries;
use super::{Abort, Tx};

query! {
    ADVANCE = "cursors/advance" (TEXT, TEXT, TEXT);
    READ = "members/read" (TEXT_ARRAY, TEXT_ARRAY, INT8_ARRAY);
}

/// Moves a cursor forward. An older cursor changes nothing.
pub(crate) async fn advance(tx: &Tx, did: &Did, convo: &ConvoId, cursor: &str) -> Result<(), Abort> {
    tx.rows(&ADVANCE, &[&did.as_str(), &convo.as_str(), &cursor]).await?;
    Ok(())
}

/// Moves read positions forward, one for each line: conversation, member, seq.
pub(crate) async fn read(tx: &Tx, convos: &[String], dids: &[String], seqs: &[i64]) -> Result<(), Abort> {
    tx.rows(&READ, &[&convos, &dids, &seqs]).await?;
    Ok(())
}
