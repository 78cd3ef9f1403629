//! Logs: DIDs and conversation ids appear at debug level only; bodies and tokens never appear, even at the most verbose
//! level.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::{base64_text, bytes_value};
use catbird_testkit::app::{validated, variables};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use serde_json::{Value, json};

use crate::harness::*;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_tokens_are_never_logged_not_even_when_everything_is() {
    let said = Said::through_a_server("trace").await;
    assert!(said.log.contains("sendMessage") && said.log.contains("refused"), "the requests themselves are there");
    for secret in &said.secrets {
        assert!(!said.log.contains(secret), "the log has {secret:.60}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_default_level_the_log_has_no_dids_and_no_conversation_ids() {
    let said = Said::through_a_server("catbird_server=info,warn").await;
    assert!(said.log.contains("sendMessage"));
    for name in said.dids.iter().chain(&said.secrets).chain([&said.convo]) {
        assert!(!said.log.contains(name), "the log has {name:.60}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unforeseen_constraint_violation_is_a_defect_whose_rows_stay_out_of_the_log() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("RUST_LOG", "warn,catbird_server=info")]).await;
    let [alice, bob] = [(); 2].map(|()| Persona::new(validated(&replica.base, &random_did())));
    let group = |of: &Persona, n: u8| {
        json!({
            "groupId": sha256_hex(format!("{} {n}", of.did()).as_bytes()),
            "cipherSuite": of.mls.suite_name(),
        })
    };
    let convo = ok(ask(&alice, "createConvo", &group(&alice, 1)).await).string("id").unwrap().to_owned();
    let operator = database.connect().await;
    let forbid = format!(
        "create unique index one_convo_each on members (member_did);
         alter table members add constraint not_everybody check (member_did <> '{}') not valid;
         alter table messages add constraint nothing_more check (false) not valid",
        bob.did()
    );
    operator.batch_execute(&forbid).await.unwrap();
    // A message is written by a task that works for many requests.
    let text = "b3BhcXVl";
    let message = json!({ "convoId": convo, "ciphertext": { "$bytes": text }, "epoch": 0, "senderDid": alice.did() });
    let id = |group: &Value| group["groupId"].as_str().unwrap().to_owned();
    let [of_alice, of_bob] = [group(&alice, 2), group(&bob, 2)];
    for (who, method, body, content, constraint) in [
        (&alice, "createConvo", &of_alice, id(&of_alice), "one_convo_each"),
        (&bob, "createConvo", &of_bob, id(&of_bob), "not_everybody"),
        (&alice, "sendMessage", &message, text.to_owned(), "nothing_more"),
    ] {
        let refused = ask(who, method, body).await;
        assert_eq!((refused.status, refused.error()), (500, Some("InternalServerError")), "{refused}");
        let (told, request) = (refused.body.to_string(), refused.string("requestId").unwrap().to_owned());
        // The log arrives through a pipe, a moment after the reply.
        let start = Instant::now();
        while !replica.log().iter().any(|line| line.contains(constraint) && line.contains(&request)) {
            assert!(start.elapsed() < PATIENCE, "the log does not say what is wrong with {request}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = replica.log().join("\n");
        for name in [who.did(), &content, "DETAIL"] {
            assert!(
                !log.contains(name) && !told.contains(name),
                "{name} is in the log or in the reply:\n{log}\n{told}"
            );
        }
        assert!(!told.contains(constraint), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_log_is_lines_for_people() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let line = logged(Stdio::from(terminal.slave), Stdio::inherit(), |_| terminal.master).await;
    assert!(line.contains("INFO") && line.contains("127.0.0.1:"), "{line:?}");
    assert!(!line.contains('{') && !line.contains("\"message\""), "{line:?}");
}

/// The log goes to standard output, so its form does too.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_json_unless_standard_output_is_a_terminal() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let line = logged(Stdio::piped(), Stdio::from(terminal.slave), |output| output.unwrap().into()).await;
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["message"], "listening", "{line:?}");
}

/// Starts a server with these outputs, and returns the line of its log that says where it listens. `reader` returns the end from which
/// its standard output can be read.
async fn logged(output: Stdio, errors: Stdio, reader: impl FnOnce(Option<ChildStdout>) -> OwnedFd) -> String {
    let database = database().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_catbird-server"))
        .env_clear()
        .envs(variables(&[("DATABASE_URL", &database.url)]))
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(File::from(reader(child.stdout.take()))).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains("listening"))).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    line
}

/// A server's log of a short conversation, and the conversation's content.
struct Said {
    log: String,
    secrets: Vec<String>,
    dids: Vec<String>,
    convo: String,
}

impl Said {
    async fn through_a_server(level: &str) -> Self {
        let database = database().await;
        let mut child = Command::new(env!("CARGO_BIN_EXE_catbird-server"))
            .env_clear()
            .envs(variables(&[("DATABASE_URL", &database.url), ("RUST_LOG", level)]))
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reading = std::thread::spawn({
            let log = log.clone();
            move || {
                for line in lines.lines().map_while(Result::ok) {
                    log.lock().unwrap().push_str(&format!("{line}\n"));
                }
            }
        });
        let mut said = Self { log: String::new(), secrets: Vec::new(), dids: Vec::new(), convo: String::new() };
        let base = address(&log).await;
        said.talk(&base).await;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        child.wait().unwrap();
        reading.join().unwrap();
        said.log = std::mem::take(&mut *log.lock().unwrap());
        said
    }

    async fn talk(&mut self, base: &str) {
        let (mut alice, bob) =
            (Persona::new(validated(base, &random_did())), Persona::new(validated(base, &random_did())));
        let mut secret = |text: &str| {
            self.secrets.push(text.to_owned());
            text.to_owned()
        };
        let package = bob.mls.key_package().unwrap();
        secret(&base64_text(&package)[20..80]);
        ok(publish(&bob, &package).await);
        let created = json!({
            "groupId": sha256_hex(alice.did().as_bytes()),
            "cipherSuite": alice.mls.suite_name(),
            "metadata": { "name": secret("a most private name"), "description": secret("a description for two") },
            "idempotencyKey": secret("a key that I made up"),
            "initialMembers": [bob.did()],
        });
        let created = ok(ask(&alice, "createConvo", &created).await);
        alice.convo_id = Some(created.string("id").unwrap().to_owned());
        let ciphertext = b"what I have to say is for you alone";
        secret(std::str::from_utf8(ciphertext).unwrap());
        secret(&base64_text(ciphertext)[..40]);
        secret(&format!("{:?}", &ciphertext[..10]).replace(['[', ']'], ""));
        let good = json!({
            "convoId": convo(&alice), "ciphertext": bytes_value(ciphertext), "epoch": 0,
            "embedUri": secret("https://example.com/for-your-eyes"),
        });
        ok(ask(&alice, "sendMessage", &good).await);
        ok(get(&bob, "getMessages", &[("convoId", &convo(&alice))]).await);
        // Refusals are the requests that a log is most likely to quote.
        let bad: [Value; 3] = [
            with(&good, json!({ "epoch": secret("this is no epoch") })),
            with(&good, json!({ "embedUri": secret("no-scheme-but-private") })),
            with(&good, json!({ "epoch": 9 })),
        ];
        for bad in bad {
            assert_ne!(ask(&alice, "sendMessage", &bad).await.status, 200);
        }
        let token = alice.xrpc.token("blue.catbird.mls.getConvos");
        secret(token.rsplit('.').next().unwrap());
        secret(&token[..60]);
        let xrpc = &alice.xrpc;
        let request = xrpc.http.get(xrpc.url("blue.catbird.mls.getConvos", &[])).bearer_auth(&token);
        ok(xrpc.send("blue.catbird.mls.getConvos", request).await.unwrap());
        self.dids = vec![alice.did().to_owned(), bob.did().to_owned()];
        self.convo = convo(&alice);
    }
}

/// Returns the address that the server logs once it accepts requests.
async fn address(log: &Mutex<String>) -> String {
    let start = Instant::now();
    let http = catbird_client::xrpc::http().unwrap();
    loop {
        assert!(start.elapsed() < PATIENCE, "the server did not become ready");
        let address = log.lock().unwrap().lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "listening").then(|| format!("http://{}", line["address"].as_str().unwrap()))
        });
        if let Some(address) = address
            && http.get(format!("{address}/health/ready")).send().await.is_ok_and(|reply| reply.status().is_success())
        {
            return address;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
