//! Documents of DIDs that have not called for long. They are fetched anew when one does.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// For how long a DID counts as known after its document was last fetched.
const KEPT: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job =
    Job { name: "did_documents", at_least_every: None, age: |_| Some(KEPT), work: Work::Pages(Table::DidDocuments) };
