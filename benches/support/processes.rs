//! Processor time of processes, from `/proc`, and the cores on which they run.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{Failure, Result};

const THIS_THREAD: Pid = Pid::from_raw(0);

/// Processor time of a process from `/proc/<pid>/stat`.
pub struct Process {
    pub parent: u32,
    /// Processor time of all its threads.
    pub cpu: Duration,
    /// Processor time of its children that have ended.
    pub children_cpu: Duration,
}

/// Reads it.
pub fn process(pid: u32) -> Result<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program is in parentheses and may contain any character. The fields after it, from the third on,
    // are numbers.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |number: usize| -> Result<u64> {
        let text = fields.get(number - 3).ok_or_else(|| format!("/proc/{pid}/stat has no field {number}"))?;
        Ok(text.parse()?)
    };
    let ticks_per_second =
        sysconf(SysconfVar::CLK_TCK)?.ok_or("the system does not report the length of a clock tick")?;
    let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64);
    Ok(Process {
        parent: u32::try_from(field(4)?)?,
        cpu: time(field(14)? + field(15)?),
        children_cpu: time(field(16)? + field(17)?),
    })
}

/// A process with its children, including those that have ended.
pub fn family_cpu(parent: u32) -> Result<Duration> {
    let head = process(parent)?;
    Ok(children(parent)?.iter().map(|(_, child)| child.cpu).sum::<Duration>() + head.cpu + head.children_cpu)
}

/// The running children of a process.
fn children(parent: u32) -> Result<Vec<(u32, Process)>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match process(pid) {
            Ok(child) if child.parent == parent => children.push((pid, child)),
            Ok(_) => {}
            Err(failure) if has_ended(&failure) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(children)
}

/// Processor time of the children of this process that have ended, such as pgbench.
pub fn ended_children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(us.unsigned_abs()))
}

/// The cores on which this thread may run.
pub fn cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(THIS_THREAD)?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

/// Lets this thread run on these cores only, and every process and thread that it starts from now on.
pub fn pin_this_thread(cores: &[usize]) -> Result<()> {
    Ok(sched_setaffinity(THIS_THREAD, &set_of(cores)?)?)
}

/// Lets a process with one thread and its children, of which each has one as well, run on these cores only; and the
/// children that it starts from now on.
pub fn pin_family(parent: u32, cores: &[usize]) -> Result<()> {
    let set = set_of(cores)?;
    // The parent first, so that no new child is missed.
    sched_setaffinity(Pid::from_raw(i32::try_from(parent)?), &set)?;
    for (child, _) in children(parent)? {
        match sched_setaffinity(Pid::from_raw(i32::try_from(child)?), &set) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(())
}

fn set_of(cores: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    Ok(set)
}

/// Whether a process ended before it was read.
fn has_ended(failure: &Failure) -> bool {
    const NO_SUCH_PROCESS: i32 = Errno::ESRCH as i32;
    failure
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS))
}
