//! Inspection for `doctor`: whether the store does all that the server needs of it.

use futures_util::TryStreamExt;
use hyper::body::Bytes;
use tokio::time::timeout;
use ulid::Ulid;

use super::failure::{ATTEMPT_TIME, Failure};
use super::upload::Upload;
use super::{Objects, reading};

/// What the store does not do, with the cause.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it does not store an object: {0}")]
    Write(String),
    #[error("it does not return an object: {0}")]
    Read(String),
    #[error("it does not delete an object: {0}")]
    Delete(String),
}

impl Objects {
    /// Stores a small object with a name below `doctor/`, which no blob has, reads it and deletes it. Nothing is repeated, and each step
    /// takes at most [`ATTEMPT_TIME`].
    pub async fn inspect(&self) -> Result<(), Refusal> {
        let store = &self.0.store;
        let name = format!("doctor/{}", Ulid::new());
        let bytes = Bytes::from(name.clone());
        let writing = async {
            let mut upload = Upload::begin(store, &name, bytes.len() as u64).await?;
            upload.write(bytes.clone()).await?;
            upload.finish().await
        };
        let reading = async {
            let opened = reading::open(store, &name, None).await?.ok_or_else(|| Failure::new("it is not there"))?;
            let pieces: Vec<Bytes> = reading::pieces(store.clone(), name.clone(), opened).try_collect().await?;
            if pieces.concat() == bytes { Ok(()) } else { Err(Failure::new("it has other bytes")) }
        };
        let written = in_time(writing).await;
        let read = if written.is_ok() { in_time(reading).await } else { Ok(()) };
        // Also after a failure, since the object may be there nevertheless.
        let deleted = in_time(store.delete(&name)).await;
        written.map_err(Refusal::Write)?;
        read.map_err(Refusal::Read)?;
        deleted.map_err(Refusal::Delete)
    }
}

async fn in_time(step: impl Future<Output = Result<(), Failure>>) -> Result<(), String> {
    let done = timeout(ATTEMPT_TIME, step).await.unwrap_or_else(|_| Err(Failure::silent(ATTEMPT_TIME)));
    done.map_err(|failure| failure.to_string())
}
