//! `admin export`: the log of a conversation as lines of JSON, each an entry as `getMessages` returns it. Application messages are ciphertexts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::progress::Progress;
use super::{Admin, AdminError};
use crate::bodies::Bodies;
use crate::ids::ConvoId;
use crate::metrics::Registry;
use crate::objects::{ObjectMetrics, Objects};
use crate::store::erasure::Tally;

/// Destination of an export. A file has its name only once it is complete, and replaces no other.
pub(super) enum Destination {
    StandardOutput,
    File { writer: BufWriter<File>, partial: PathBuf, path: PathBuf },
}

impl Destination {
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::StandardOutput) };
        if path.try_exists()? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display())));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // Left by an export that was interrupted.
        if partial.try_exists()? {
            fs::remove_file(&partial)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        Ok(Self::File { writer: BufWriter::new(file), partial, path: path.to_owned() })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::StandardOutput => io::stdout().write_all(lines),
            Self::File { writer, .. } => writer.write_all(lines),
        }
    }

    fn close(self) -> io::Result<()> {
        match self {
            Self::StandardOutput => io::stdout().flush(),
            Self::File { writer, partial, path } => {
                writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
                fs::hard_link(&partial, &path)?;
                fs::remove_file(&partial)
            }
        }
    }
}

impl Admin {
    /// Opens the blob store, which a conversation without bodies does not need.
    fn bodies(&self) -> Result<Bodies, AdminError> {
        let objects = Objects::open(&self.blob_store, ObjectMetrics::register(&mut Registry::default()))?;
        Ok(Bodies::new(objects, Handle::current()))
    }

    /// Exports the entries that a conversation has now, a page in memory at a time.
    pub(super) async fn export(&self, convo: &ConvoId, mut to: Destination) -> Result<Tally, AdminError> {
        let found = self.operator.convo(convo).await?.ok_or_else(|| AdminError::NoConvo(convo.to_string()))?;
        let upto = found.view["seq"].as_i64().expect("a look-up has the last seq");
        let (mut entries, mut bytes, mut after, mut progress, mut bodies) = (0, 0, 0, Progress::new(), None);
        loop {
            let page = self.operator.entries(convo, after, upto).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            if bodies.is_none() && page.iter().any(|entry| entry.ciphertext.missing().is_some()) {
                bodies = Some(self.bodies()?);
            }
            if let Some(bodies) = &bodies {
                bodies.fill_all(&page).await?;
            }
            let mut lines = Vec::new();
            for entry in &page {
                entries += 1;
                bytes += entry.ciphertext.size() as i64;
                serde_json::to_writer(&mut lines, entry).map_err(io::Error::from)?;
                lines.push(b'\n');
            }
            to.write(&lines)?;
            progress.show(|| format!("conversation {convo}: entry {after} of {upto}"));
        }
        to.close()?;
        Ok(Tally::from([("entries".to_owned(), entries), ("bytes".to_owned(), bytes)]))
    }
}
