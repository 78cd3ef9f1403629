//! Description of the machine and of the build that were measured.

use std::process::Command;
use std::thread;

use catbird_bench_report::results::Machine;

/// This machine and this build. Unknown values are empty.
pub fn describe(postgres_version: String) -> Machine {
    let memory_kib: u64 = value_of("/proc/meminfo", "MemTotal", ':')
        .and_then(|memory| memory.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    Machine {
        cores: thread::available_parallelism().map_or(0, |cores| cores.get() as u32),
        cpu_model: value_of("/proc/cpuinfo", "model name", ':').unwrap_or_default(),
        memory_bytes: memory_kib * 1024,
        os: value_of("/etc/os-release", "PRETTY_NAME", '=').map(|name| name.replace('"', "")).unwrap_or_default(),
        postgres_version,
        rustc: output("rustc", &["--version"]),
        commit: commit(),
        optimised: !cfg!(debug_assertions),
    }
}

fn commit() -> Option<String> {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let clean = output("git", &["status", "--porcelain"])?.is_empty();
    Some(if clean { commit } else { commit + "-dirty" })
}

/// The value after `name` and a separator in a file of such lines.
fn value_of(file: &str, name: &str, separator: char) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(separator)?.1.trim().to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
