//! JavaScript clients: the programs of docs/clients.md, unchanged, with the official AT Protocol library and a separate
//! MLS library, in Node through a stand-in for a PDS and directly, and in a browser. tests/js has the dependencies and
//! the stand-in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use catbird_server::error::Code;
use catbird_testkit::app::TestApp;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/js");
const PAGE: &str = include_str!("../../docs/clients.md");

fn node(program: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(program).current_dir(PROGRAMS).kill_on_drop(true);
    command
}

/// Returns the commands that the page types into a terminal, from the repository's root.
fn typed_into(terminal: u8) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```sh in terminal {terminal}\n")).expect("the page has this terminal");
    rest.split_once("```").unwrap().0.trim()
}

/// Starts the stand-in for a PDS as the page does, but at any port, and returns its address. It ends with this value.
async fn pds() -> (Child, String) {
    let mut pds = Command::new("sh");
    pds.args(["-c", &typed_into(1).replace("2583", "0")]).current_dir(env!("CARGO_MANIFEST_DIR")).kill_on_drop(true);
    let mut pds = pds.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("there is a shell");
    let said = BufReader::new(pds.stdout.take().unwrap()).lines().next_line().await.unwrap();
    (pds, said.expect("it says where it listens"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_of_the_page_for_clients_run_both_ways_and_in_a_browser() {
    let packages = Path::new(PROGRAMS).join("node_modules");
    assert!(packages.is_dir(), "{} is missing: npm ci --prefix tests/js, which ops/test does", packages.display());
    let (_pds, pds) = pds().await;
    // The service's DID contains the port.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // The server has the settings of the page, except for the two addresses.
    let typed = typed_into(2).replace("3000", &port).replace("http://localhost:2583", &pds);
    let (settings, program): (Vec<_>, Vec<_>) = typed.split(' ').partition(|word| word.contains('='));
    assert_eq!(program, ["ops/run"]);
    let settings: Vec<_> = settings.iter().map(|setting| setting.split_once('=').unwrap()).collect();
    let app = TestApp::on(listener, &settings).await;
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{port}"));
    let mut tests = node("clients.test.mjs");
    tests.env("PDS", &pds).env("SERVER", format!("http://localhost:{port}")).env("DIRECTORY", &directory);
    let ended = tests.output().await.unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}{}", String::from_utf8_lossy(&ended.stderr));
    println!("{told}");
    std::fs::remove_dir_all(directory).unwrap();
    app.finish().await;
}

/// Each terminal's commands refer to programs of the others, and so do the programs' defaults.
#[test]
fn the_page_has_the_stand_in_and_the_server_in_one_place_each() {
    let ports = PAGE.split("http://localhost:").skip(1).map(|rest| &rest[..4]);
    assert_eq!(ports.collect::<BTreeSet<_>>(), BTreeSet::from(["2583", "3000"]));
    assert!(typed_into(1).contains("PORT=2583 ") && typed_into(2).contains("SERVER_PORT=3000 "));
}

/// Clients depend on the names, so the page must list all of them.
#[test]
fn the_table_of_errors_is_that_of_the_code() {
    let told = PAGE.lines().filter_map(|line| {
        let [_, name, status, recovery, _, _] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            return None;
        };
        let status: u16 = status.parse().ok()?;
        Some((name.trim_matches('`').to_owned(), status, recovery.trim_matches('`').to_owned()))
    });
    let known = Code::ALL.iter().map(|code| {
        let recovery = serde_json::to_value(code.recovery()).unwrap();
        (code.name().to_owned(), code.status().as_u16(), recovery.as_str().unwrap().to_owned())
    });
    assert_eq!(told.collect::<BTreeSet<_>>(), known.collect::<BTreeSet<_>>());
}
