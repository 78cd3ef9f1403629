//! Directories of a cluster, their owner, and the lock that excludes a second server.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::account::Account;
use super::error::EmbeddedError;
use super::{Durability, Settings};

/// Parent directory of the cluster if the server is root and only root can enter its data directory, such as `/root`.
/// The data directory then contains a link to it.
const ELSEWHERE: &str = "/var/lib/catbird-server";

/// Maximum length of a socket path on all systems: `sun_path` has 108 bytes on Linux and 104 on macOS, one of them for
/// the final zero.
const MAX_SOCKET_PATH: usize = 103;

/// Directory of a cluster, locked while this value lives.
#[derive(Debug)]
pub(super) struct Home {
    /// Directory that contains the files below.
    pub dir: PathBuf,
    pub pgdata: PathBuf,
    /// Directory of the socket. It is outside `dir` if that path is too long.
    pub sockets: PathBuf,
    pub log: PathBuf,
    port: u16,
    pub account: Account,
    unclaimed: Option<Unclaimed>,
    _lock: File,
}

impl Home {
    /// Creates or finds the directories and takes the lock.
    pub fn open(settings: &Settings) -> Result<Self, EmbeddedError> {
        let account = Account::choose()?;
        let (dir, unclaimed) = match settings.durability {
            Durability::ThrowAway => fresh(&settings.data_dir, &account).map(|(dir, guard)| (dir, Some(guard)))?,
            Durability::Durable => (lasting(&settings.data_dir, &account)?, None),
        };
        let lock = lock(&dir)?;
        let pgdata = dir.join("postgres");
        let account = if exists(&pgdata)? { account.owner_of(&pgdata)? } else { account };
        let sockets = sockets(&dir, settings.port(), &account)?;
        let port = settings.port();
        Ok(Self { log: dir.join("postgres.log"), dir, pgdata, sockets, port, account, unclaimed, _lock: lock })
    }

    /// Returns the lock file of PostgreSQL's socket.
    pub fn socket_lock(&self) -> PathBuf {
        self.sockets.join(format!("{}.lock", socket_name(self.port)))
    }

    /// Leaves the removal of a throw-away directory to the supervisor.
    pub fn hand_over(&mut self) {
        if let Some(mut guard) = self.unclaimed.take() {
            guard.0 = None;
        }
    }

    /// Removes the directory of the socket if it is outside `dir` and PostgreSQL has left it empty.
    pub fn remove_outlying_sockets(&self) -> Result<(), EmbeddedError> {
        if self.sockets.starts_with(&self.dir) {
            return Ok(());
        }
        match fs::remove_dir(&self.sockets) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(EmbeddedError::io(format!("remove {}", self.sockets.display()), e))
            }
            _ => Ok(()),
        }
    }
}

/// Removes a throw-away directory if no supervisor was started for it.
#[derive(Debug)]
struct Unclaimed(Option<PathBuf>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(dir) = &self.0
            && let Err(error) = fs::remove_dir_all(dir)
        {
            tracing::warn!(%error, dir = %dir.display(), "cannot remove the directory of a throw-away cluster");
        }
    }
}

/// Creates a new directory; a throw-away cluster must not reuse one, because it is removed at the end.
fn fresh(dir: &Path, account: &Account) -> Result<(PathBuf, Unclaimed), EmbeddedError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(EmbeddedError::NotNew(dir.to_owned())),
        Err(e) => return Err(EmbeddedError::io(format!("create {}", dir.display()), e)),
    }
    let guard = Unclaimed(Some(dir.to_owned()));
    account.give(dir)?;
    let dir = canonical(dir)?;
    match account.barrier(&dir)? {
        Some(barrier) => Err(EmbeddedError::Unreachable { account: account.name.clone(), barrier }),
        None => Ok((dir, guard)),
    }
}

/// Returns the data directory, or the directory that it links to because the account cannot enter it.
fn lasting(data_dir: &Path, account: &Account) -> Result<PathBuf, EmbeddedError> {
    if !exists(data_dir)? {
        create_passage(data_dir)?;
    }
    let data_dir = canonical(data_dir)?;
    let link = data_dir.join("elsewhere");
    if exists(&link)? {
        return canonical(&link);
    }
    let Some(barrier) = account.barrier(&data_dir)? else { return Ok(data_dir) };
    let dir = Path::new(ELSEWHERE).join(Ulid::new().to_string().to_lowercase());
    create_passage(&dir)?;
    if account.barrier(&dir)?.is_some() {
        return Err(EmbeddedError::Unreachable { account: account.name.clone(), barrier });
    }
    symlink(&dir, &link).map_err(|e| EmbeddedError::io(format!("create the link {}", link.display()), e))?;
    tracing::warn!(
        "user {} cannot enter {}, so the embedded PostgreSQL lives in {} ({} points to it)",
        account.name,
        barrier.display(),
        dir.display(),
        link.display()
    );
    canonical(&link)
}

/// Creates a directory and its missing parents; other accounts may pass through it but not list it.
fn create_passage(dir: &Path) -> Result<(), EmbeddedError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(|e| EmbeddedError::io(format!("create {}", dir.display()), e))
}

/// Takes the lock that excludes other servers. The kernel releases it when the process ends in any way.
fn lock(dir: &Path) -> Result<File, EmbeddedError> {
    let path = dir.join("lock");
    let failed = |e| EmbeddedError::io(format!("lock {}", path.display()), e);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            let pid = Some(pid.trim().to_owned()).filter(|pid| !pid.is_empty());
            return Err(EmbeddedError::InUse { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(e)) => return Err(failed(e)),
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// Returns the directory for the socket: in the cluster's directory, or a short path under the temporary directory
/// whose name is the same at every start.
fn sockets(dir: &Path, port: u16, account: &Account) -> Result<PathBuf, EmbeddedError> {
    let name = format!("catbird-{}", crate::hex::encode(&Sha256::digest(dir.as_os_str().as_bytes())[..6]));
    let mut candidates =
        [dir.join("socket"), std::env::temp_dir().join(&name), Path::new("/tmp").join(&name)].into_iter();
    let sockets = loop {
        let candidate = candidates.next().ok_or_else(|| {
            EmbeddedError::io("find a short directory for the socket", io::Error::from(ErrorKind::InvalidFilename))
        })?;
        let short = candidate.join(socket_name(port)).as_os_str().len() <= MAX_SOCKET_PATH;
        let outside = candidate.parent().map_or(Ok(None), |parent| account.barrier(parent))?;
        if short && outside.is_none() {
            break candidate;
        }
    };
    own_privately(&sockets, account)?;
    Ok(sockets)
}

/// Returns PostgreSQL's name for its socket.
fn socket_name(port: u16) -> String {
    format!(".s.PGSQL.{port}")
}

/// Creates a directory that only the account can enter. An existing one must already be private: under `/tmp` another
/// user could have created it and pose as the database.
pub(super) fn own_privately(dir: &Path, account: &Account) -> Result<(), EmbeddedError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => account.give(dir),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let found =
                dir.symlink_metadata().map_err(|e| EmbeddedError::io(format!("look at {}", dir.display()), e))?;
            let private =
                found.is_dir() && found.uid() == account.uid.as_raw() && found.permissions().mode() & 0o077 == 0;
            if private { Ok(()) } else { Err(EmbeddedError::NotPrivate(dir.to_owned())) }
        }
        Err(e) => Err(EmbeddedError::io(format!("create {}", dir.display()), e)),
    }
}

fn exists(path: &Path) -> Result<bool, EmbeddedError> {
    path.try_exists().map_err(|e| EmbeddedError::io(format!("look at {}", path.display()), e))
}

fn canonical(path: &Path) -> Result<PathBuf, EmbeddedError> {
    path.canonicalize().map_err(|e| EmbeddedError::io(format!("resolve {}", path.display()), e))
}
