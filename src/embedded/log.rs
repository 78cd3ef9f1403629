//! PostgreSQL's own log: one bounded file, whose end a failed start shows.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Size at which the log is moved aside. One older file is kept, so the total is at most about twice this.
pub(super) const MAX_LOG_BYTES: u64 = 8 * 1024 * 1024;

/// Interval at which the size is checked.
const LOG_CHECK: Duration = Duration::from_secs(60);

/// Lines and bytes of the log that an error shows.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 * 1024;

/// Opens the log for PostgreSQL to append to.
pub(super) fn open(path: &Path) -> io::Result<File> {
    bound(path)?;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Returns the last lines written from byte `from` on.
pub(super) fn tail(path: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        let start = from.max(end.saturating_sub(TAIL_BYTES)).min(end);
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(&mut bytes, start)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("(cannot read it: {error})"),
    }
}

/// Bounds the log while the task runs.
pub(super) async fn keep_bounded(path: PathBuf) {
    let mut ticks = tokio::time::interval(LOG_CHECK);
    loop {
        ticks.tick().await;
        if let Err(error) = bound(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot bound the log of the embedded PostgreSQL");
        }
    }
}

/// Copies a log that is too long aside and truncates it. PostgreSQL keeps the file open, so it cannot be renamed; it
/// appends, so it continues at the new end.
fn bound(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_LOG_BYTES => {
            fs::copy(path, path.with_extension("log.1"))?;
            OpenOptions::new().write(true).open(path)?.set_len(0)
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_is_too_long_is_moved_aside_while_its_writer_goes_on() {
        let dir = std::env::temp_dir().join(format!("catbird-log-{}", ulid::Ulid::new()));
        fs::create_dir(&dir).unwrap();
        let path = dir.join("postgres.log");
        let mut writer = open(&path).unwrap();
        writer.write_all(&vec![b'x'; usize::try_from(MAX_LOG_BYTES).unwrap() + 1]).unwrap();
        bound(&path).unwrap();
        writer.write_all(b"first\nsecond\n").unwrap();

        assert_eq!(tail(&path, 0), "first\nsecond");
        assert_eq!(tail(&path, 6), "second");
        assert_eq!(fs::metadata(dir.join("postgres.log.1")).unwrap().len(), MAX_LOG_BYTES + 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
