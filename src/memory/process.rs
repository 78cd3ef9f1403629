//! Memory of the process: the resident set, and the lowest limit that applies to it.

use std::fs::read_to_string;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::metrics::process_usage;

/// Part of the limit up to which the resident set counts as healthy, in percent. Beyond it the kernel may soon end the process.
const HEALTHY_PERCENT: u64 = 90;

/// Memory of the process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    pub resident: u64,
    /// The lowest limit of the process and of its cgroups, or the memory of the machine.
    pub limit: u64,
}

impl ProcessMemory {
    /// Measures the memory of this process; `None` where there is no /proc.
    pub fn measure() -> Option<Self> {
        let (resident, _) = process_usage()?;
        let limit = limit(Path::new("/"))?;
        Some(Self {
            resident: u64::try_from(resident).ok()?,
            limit: data_limit().map_or(limit, |data| data.min(limit)),
        })
    }

    pub fn is_healthy(self) -> bool {
        self.resident <= self.limit / 100 * HEALTHY_PERCENT
    }
}

/// The lowest limit in the files of a system whose root directory is `root` (cgroups(7), proc(5)).
fn limit(root: &Path) -> Option<u64> {
    let cgroups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let of_cgroups = cgroups.lines().filter_map(|line| cgroup_limit(root, line));
    of_cgroups.chain(machine_memory(root)).min()
}

/// The limit on the data of this process (`ulimit -d`), beyond which it gets no memory and ends.
fn data_limit() -> Option<u64> {
    let (limit, _) = getrlimit(Resource::RLIMIT_DATA).ok()?;
    (limit != RLIM_INFINITY).then_some(limit)
}

/// The lowest limit of one line of /proc/self/cgroup: of that cgroup and of those that it is in.
fn cgroup_limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        v1 if v1.split(',').any(|controller| controller == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let cgroups = Path::new(path.trim_start_matches('/')).ancestors();
    // "max" is no limit.
    cgroups
        .filter_map(|cgroup| read_to_string(root.join(mount).join(cgroup).join(file)).ok()?.trim().parse().ok())
        .min()
}

fn machine_memory(root: &Path) -> Option<u64> {
    let text = read_to_string(root.join("proc/meminfo")).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit on a system with these files, and 1,000,000 kB of memory.
    fn limit_with(files: &[(&str, &str)]) -> Option<u64> {
        let root = std::env::temp_dir().join(format!("catbird-memory-{}", ulid::Ulid::new()));
        for (path, text) in files.iter().chain(&[("proc/meminfo", "MemTotal:        1000000 kB\nMemFree: 1 kB\n")]) {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let limit = limit(&root);
        std::fs::remove_dir_all(&root).unwrap();
        limit
    }

    #[test]
    fn the_limit_is_the_lowest_of_the_cgroups_and_the_machine() {
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        let outer = ("sys/fs/cgroup/a/memory.max", "5000\n");
        assert_eq!(limit_with(&[]), Some(1_024_000_000));
        assert_eq!(limit_with(&[v2, ("sys/fs/cgroup/a/b/memory.max", "max\n")]), Some(1_024_000_000));
        assert_eq!(limit_with(&[v2, outer, ("sys/fs/cgroup/a/b/memory.max", "max\n")]), Some(5_000));
        assert_eq!(limit_with(&[v2, outer, ("sys/fs/cgroup/a/b/memory.max", "4000\n")]), Some(4_000));
        // In a container the cgroup is the root of what it sees.
        let container = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "6000\n")];
        assert_eq!(limit_with(&container), Some(6_000));
        // Version 1 names the host's path, and has a large number where there is no limit.
        let v1 = ("proc/self/cgroup", "5:cpu,memory:/docker/x\n1:name=systemd:/docker/x\n");
        assert_eq!(limit_with(&[v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "7000\n")]), Some(7_000));
        let none = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit_with(&[v1, none]), Some(1_024_000_000));
    }

    #[test]
    fn this_process_fits_into_its_memory() {
        let memory = ProcessMemory::measure().unwrap();
        assert!(memory.resident > 0 && memory.is_healthy(), "{memory:?}");
        assert!(!ProcessMemory { resident: 91, limit: 100 }.is_healthy());
    }
}
