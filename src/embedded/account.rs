//! Operating system account of the embedded PostgreSQL. PostgreSQL refuses to run as root, so a server that runs as
//! root uses an unprivileged account; any other server keeps its own. [`Account::command`] starts all processes of this
//! module.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use super::error::EmbeddedError;

/// Accounts that root uses for the cluster; the first one that exists.
const UNPRIVILEGED: [&str; 3] = ["postgres", "nobody", "daemon"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
    /// The server is root and must change identity and ownership.
    dropped: bool,
}

impl Account {
    /// Returns the account for a new cluster.
    pub fn choose() -> Result<Self, EmbeddedError> {
        if !Uid::effective().is_root() {
            return Ok(Self::named(Uid::effective(), Gid::effective(), false));
        }
        for name in UNPRIVILEGED {
            if let Some(user) =
                User::from_name(name).map_err(|e| EmbeddedError::io(format!("look up user {name}"), e.into()))?
            {
                return Ok(Self { name: user.name, uid: user.uid, gid: user.gid, dropped: true });
            }
        }
        Err(EmbeddedError::NoAccount)
    }

    /// Returns the account for an existing cluster: its owner, whatever this machine would choose now.
    pub fn owner_of(self, pgdata: &Path) -> Result<Self, EmbeddedError> {
        let metadata = pgdata.metadata().map_err(|e| EmbeddedError::io(format!("look at {}", pgdata.display()), e))?;
        let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        if uid == self.uid {
            return Ok(self);
        }
        if !self.dropped || uid.is_root() {
            let owner = Self::named(uid, gid, false).name;
            return Err(EmbeddedError::ForeignOwner { dir: pgdata.to_owned(), owner, us: self.name });
        }
        Ok(Self::named(uid, gid, true))
    }

    fn named(uid: Uid, gid: Gid, dropped: bool) -> Self {
        let name = match User::from_uid(uid) {
            Ok(Some(user)) => user.name,
            Ok(None) | Err(_) => uid.to_string(),
        };
        Self { name, uid, gid, dropped }
    }

    /// Returns true if root chose an account that other programs may run as.
    pub fn is_shared(&self) -> bool {
        self.dropped && self.name != UNPRIVILEGED[0]
    }

    /// Creates a command of this account, in its own process group (the server handles a Ctrl-C in the terminal), in a
    /// directory that every account can read, and without the server's environment, which holds secrets and `PG…`
    /// variables that would affect PostgreSQL.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").process_group(0).env_clear().env("LC_ALL", "C");
        if let Some(path) = search_path() {
            command.env("PATH", path);
        }
        if self.dropped {
            command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
        }
        command
    }

    /// Makes this account the owner of a file that the server has just created.
    pub fn give(&self, path: &Path) -> Result<(), EmbeddedError> {
        if self.dropped {
            chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
                .map_err(|e| EmbeddedError::io(format!("give {} to user {}", path.display(), self.name), e))?;
        }
        Ok(())
    }

    /// Returns the first directory on the path to `dir` that this account cannot enter. Entering is tried rather than
    /// computed from mode bits, so that access lists count too.
    pub fn barrier(&self, dir: &Path) -> Result<Option<PathBuf>, EmbeddedError> {
        if !self.dropped || self.can_enter(dir)? {
            return Ok(None);
        }
        let mut way: Vec<&Path> = dir.ancestors().collect();
        way.reverse();
        for step in way {
            if !self.can_enter(step)? {
                return Ok(Some(step.to_owned()));
            }
        }
        Ok(None)
    }

    fn can_enter(&self, dir: &Path) -> Result<bool, EmbeddedError> {
        let entered: io::Result<_> = self
            .command("/bin/sh")
            .args(["-c", "cd \"$1\"", "enter"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        Ok(entered.map_err(|e| EmbeddedError::io(format!("act as user {}", self.name), e))?.success())
    }
}

/// Returns the search path of programs. `PATH` is not a setting of the server, so it is read here.
#[expect(clippy::disallowed_methods, reason = "the search path of programs is not configuration")]
pub(super) fn search_path() -> Option<std::ffi::OsString> {
    std::env::var_os("PATH")
}
