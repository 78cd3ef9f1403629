//! This process on this machine: what a server that is started in the same way may open and use.

use nix::sys::resource::{Resource, getrlimit};

use crate::config::Config;
use crate::connection;
use crate::events::hub::MAX_HELD_BYTES;
use crate::memory::{self, ProcessMemory};

use super::Diagnosis;

/// Memory beside the budgets: the program, its caches, and the buffers of connections and statements.
const OTHER_BYTES: u64 = 128 << 20;
const MIB: u64 = 1 << 20;

pub(super) fn examine(config: &Config) -> Vec<Diagnosis> {
    // The server raises its limit to the hard one.
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, most)| most);
    let mut found = vec![files_for(config, files)];
    found.extend(ProcessMemory::measure().map(|memory| memory_for(memory.limit)));
    found
}

fn files_for(config: &Config, files: u64) -> Diagnosis {
    let room = connection::room(files, config.database_max_connections);
    let wanted = config.max_connections;
    let subject = "open_files";
    if room >= wanted {
        return Diagnosis::ok(
            subject,
            format!("{files} files may be open, which is enough for MAX_CONNECTIONS={wanted}"),
        );
    }
    Diagnosis::weak(
        subject,
        format!("{files} files may be open: room for {room} HTTP connections, and MAX_CONNECTIONS is {wanted}"),
        "P10: further clients wait to be accepted, for as long as others stay",
        format!(
            "Raise the limit by {} (`ulimit -Hn`; LimitNOFILE= in systemd; ulimits: in compose.yaml), or lower MAX_CONNECTIONS",
            wanted - room
        ),
    )
}

fn memory_for(limit: u64) -> Diagnosis {
    let needed = (memory::MAX_BYTES + MAX_HELD_BYTES) as u64 + OTHER_BYTES;
    let (subject, limit_mib, needed_mib) = ("memory", limit / MIB, needed / MIB);
    if limit >= needed {
        return Diagnosis::ok(
            subject,
            format!("{limit_mib} MiB of memory, of which the server uses {needed_mib} MiB at most"),
        );
    }
    Diagnosis::weak(
        subject,
        format!("{limit_mib} MiB of memory, and the budgets for bodies, replies and streams need {needed_mib} MiB"),
        "P10: under load the kernel ends the process before the budgets refuse requests",
        format!("Give it {needed_mib} MiB (memory.max of its cgroup, SERVER_MEMORY in compose.yaml, `ulimit -d`)"),
    )
}
