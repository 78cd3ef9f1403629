//! Every command of `ops/runbook.md` works on a live server, and reads metrics that it has.

use catbird_testkit::app::variables;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::Mode;
use tokio::process::Command;

use super::{operations, play};

/// Returns the blocks of commands in a document. Blocks of another language, such as `console`, are left out.
pub fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match (line.trim(), &mut open) {
            ("```sh", None) => open = Some(String::new()),
            ("```", open) => blocks.extend(open.take()),
            (line, Some(block)) => *block += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

/// Returns the command that puts the server's program, which Cargo has built, on the path.
pub fn path() -> String {
    let tests = std::env::current_exe().unwrap();
    format!("PATH={}:$PATH", tests.parent().unwrap().parent().unwrap().display())
}

/// Returns the beginnings of the lines that an awk pattern such as `a_(b|c)` matches, up to its first other operator.
fn beginnings(pattern: &str) -> Vec<String> {
    let plain = pattern.split(|c: char| !c.is_ascii_alphanumeric() && !"_(|)".contains(c)).next().unwrap();
    let Some((before, group)) = plain.split_once('(') else { return vec![plain.to_owned()] };
    let (group, after) = group.split_once(')').unwrap();
    group.split('|').flat_map(|one| beginnings(&format!("{before}{one}{after}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_runbook_works_and_reads_metrics_that_exist() {
    let database = database().await;
    let (replica, page) = play(Mode::Actors, &database.url).await;
    let text = std::fs::read_to_string(operations("runbook.md")).unwrap();
    let blocks = blocks(&text);
    assert!(blocks.len() > 40, "{} blocks", blocks.len());

    let mut wrong = Vec::new();
    for block in &blocks {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &format!("{}\n{block}", path())]);
        shell.envs(variables(&[("DATABASE_URL", &database.url), ("ADMIN", &replica.base), ("SERVER", &replica.base)]));
        let output = shell.output().await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !errors.is_empty() {
            wrong.push(format!("{block}{}\n{errors}", output.status));
        }
    }
    for pattern in text.split("/^").skip(1).map(|after| after.split('/').next().unwrap()) {
        let exists = |name: &String| page.contains(&format!("\n{name}")) || page.contains(&format!("# TYPE {name}"));
        let missing = beginnings(pattern).into_iter().filter(|name| !exists(name));
        wrong.extend(missing.map(|name| format!("no metric begins with {name}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_beginnings_of_a_pattern_are_its_alternatives() {
    assert_eq!(beginnings("a_(b|c)_(d|e) /"), ["a_b_d", "a_b_e", "a_c_d", "a_c_e"]);
    assert_eq!(beginnings("plain.*(x|y)"), ["plain"]);
}
