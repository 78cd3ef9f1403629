//! Clients in JavaScript: the programs of docs/clients.md, as they stand there, with the official AT Protocol library and an MLS library of
//! their own, in Node through a stand-in of a PDS and directly, and in a browser. What they are, and the stand-in, is in tests/js.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use catbird_server::error::Code;
use support::app::TestApp;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/js");
const PAGE: &str = include_str!("../docs/clients.md");

fn node(program: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(program).current_dir(PROGRAMS).kill_on_drop(true);
    command
}

/// The stand-in of a PDS, and where it listens. It ends with this.
async fn pds() -> (Child, String) {
    let mut pds = node("pds.mjs").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node is installed");
    let said = BufReader::new(pds.stdout.take().unwrap()).lines().next_line().await.unwrap();
    (pds, said.expect("it says where it listens"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_of_the_page_for_clients_run_both_ways_and_in_a_browser() {
    let packages = Path::new(PROGRAMS).join("node_modules");
    assert!(packages.is_dir(), "{} is missing: npm ci --prefix tests/js, which ops/test does", packages.display());
    let (_pds, pds) = pds().await;
    // The service's DID names the port.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let settings = [
        ("SERVER_PORT", &*port),
        ("SERVICE_DID", &*format!("did:web:localhost%3A{port}")),
        ("PLC_DIRECTORY_URL", &pds),
        ("ALLOW_PRIVATE_DID_HOSTS", "true"),
    ];
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

/// Clients go by the names, so the page has all of them.
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
