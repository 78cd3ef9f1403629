//! Parts of the machine: a memory limit of the kernel, and a program of another version.

use std::fs;
use std::path::{Path, PathBuf};

use catbird_testkit::fleet::{Replica, program};
use ulid::Ulid;

/// A cgroup with a memory limit (cgroups(7)), of either version. It takes root. It is removed with its value, when its processes have ended
/// or left it.
pub struct Cgroup {
    dir: PathBuf,
    /// Name of the file with the limit.
    limit: &'static str,
}

impl Cgroup {
    pub fn create() -> Self {
        let name = format!("catbird-{}", Ulid::new());
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, limit) in versions {
            let dir = Path::new(root).join(&name);
            if Path::new(root).join("cgroup.procs").exists() && fs::create_dir(&dir).is_ok() {
                if dir.join(limit).exists() {
                    return Self { dir, limit };
                }
                fs::remove_dir(&dir).unwrap();
            }
        }
        panic!("this scenario takes the right to create a cgroup with a memory limit: run it as root");
    }

    /// Sets the limit.
    pub fn limit(&self, bytes: u64) {
        fs::write(self.dir.join(self.limit), bytes.to_string()).unwrap();
    }

    /// Moves a process into it.
    pub fn add(&self, replica: &Replica) {
        fs::write(self.dir.join("cgroup.procs"), replica.pid().to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = self.dir.parent().unwrap().join("cgroup.procs");
        for process in fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(&root, process);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

/// A copy of the server's program that says that it has another version. It is removed with its value.
pub struct OtherVersion(PathBuf);

impl OtherVersion {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Version in its metrics.
    pub fn version(&self) -> String {
        let [major, rest] = env!("CARGO_PKG_VERSION").splitn(2, '.').collect::<Vec<_>>().try_into().unwrap();
        format!("{}.{rest}", "0".repeat(major.len()))
    }
}

impl Drop for OtherVersion {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Copies the program and replaces the version in its constants. No other release is at hand, and none differs in more that matters here.
pub fn other_version() -> OtherVersion {
    let other = OtherVersion(std::env::temp_dir().join(format!("catbird-server-{}", Ulid::new())));
    let mut bytes = fs::read(program()).unwrap();
    let (own, new) = (env!("CARGO_PKG_VERSION").as_bytes(), other.version());
    let mut replaced = 0;
    for at in 0..bytes.len() - own.len() {
        // The content type of OpenMetrics has a version of its own.
        if &bytes[at..at + own.len()] == own && !bytes[..at].ends_with(b"version=") {
            bytes[at..at + own.len()].copy_from_slice(new.as_bytes());
            replaced += 1;
        }
    }
    assert!(replaced > 0, "the program has its version in a constant");
    fs::write(&other.0, bytes).unwrap();
    fs::set_permissions(&other.0, fs::metadata(program()).unwrap().permissions()).unwrap();
    other
}
