//! Deletes documents of DIDs that have not called for a long time. They are fetched again at the next call.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// Time for which a DID counts as known after the last fetch of its document.
const RETENTION: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job =
    Job { name: "did_documents", max_interval: None, age: |_| Some(RETENTION), work: Work::Pages(Table::DidDocuments) };
