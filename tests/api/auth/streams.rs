//! Streams close when the key that opened them is revoked, and for no other reason.

use std::time::{Duration, Instant};

use catbird_client::xrpc::{EventStream, Frame, Socket, http, nsid};
use catbird_server::auth::resolver::FRESH_FOR;
use catbird_server::clock::Clock;
use catbird_server::events::identities::CHECK_INTERVAL;
use catbird_testkit::account::Key;
use catbird_testkit::app::{SERVICE_DID, TestApp};
use catbird_testkit::directory::{Answer, Directory};
use serde_json::{Value, json};
use ulid::Ulid;

use crate::auth::service::{ALICE, publish};

struct Setting {
    directory: Directory,
    clock: Clock,
    app: TestApp,
    checks: u32,
}

impl Setting {
    async fn new() -> Self {
        let (directory, clock) = (Directory::start(), Clock::manual(Clock::system().now()));
        // PostgreSQL's clock does not advance with this one, and refuses tokens from that far in the future.
        let settings =
            [("PLC_DIRECTORY_URL", &*directory.url()), ("ALLOW_PRIVATE_DID_HOSTS", "true"), ("ENFORCE_JTI", "false")];
        let app = TestApp::at(clock.clone(), &settings).await;
        Self { directory, clock, app, checks: 0 }
    }

    fn token(&self, key: &Key, method: &str) -> String {
        let now = self.clock.now().timestamp();
        let claims = json!({
            "iss": ALICE, "aud": SERVICE_DID, "iat": now, "exp": now + 60, "lxm": nsid(method), "jti": Ulid::new().to_string(),
        });
        key.token(&json!({ "alg": key.alg(), "typ": "JWT" }), &claims)
    }

    fn url(&self, method: &str) -> String {
        format!("{}/xrpc/{}", self.app.base, nsid(method))
    }

    async fn follow(&self, key: &Key) -> EventStream {
        let request = http().unwrap().get(self.url("streamConvoEvents")).timeout(Duration::from_secs(600));
        let request = request.bearer_auth(self.token(key, "streamConvoEvents"));
        let opened = EventStream::open(&nsid("streamConvoEvents"), request).await.unwrap();
        opened.unwrap_or_else(|reply| panic!("{reply}"))
    }

    async fn subscribe(&self, key: &Key) -> Socket {
        let request = http().unwrap().post(self.url("getSubscriptionTicket")).json(&json!({}));
        let reply = request.bearer_auth(self.token(key, "getSubscriptionTicket")).send().await.unwrap();
        let reply: Value = reply.json().await.unwrap();
        let ticket = reply["ticket"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned();
        let anybody = self.app.persona();
        let opened = anybody.xrpc.subscribe("subscribeConvoEvents", &[("ticket", ticket)]).await.unwrap();
        let mut socket = opened.unwrap_or_else(|reply| panic!("{reply}"));
        assert!(matches!(socket.next().await.unwrap(), Some(Frame::Event(name, _)) if name == "#pongEvent"));
        socket
    }

    /// Checks all streams once the cached documents are out of date.
    async fn check(&mut self) {
        self.clock.advance(FRESH_FOR);
        self.checks += 1;
        let now = Instant::now() + 2 * CHECK_INTERVAL * self.checks;
        self.app.app.events.check_identities(&self.app.app.authenticator, now).await;
    }
}

/// Waits for an expected event.
async fn soon<T>(coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), coming).await.expect("the end of a stream did not come")
}

async fn goes_on(stream: &mut EventStream, socket: &mut Socket) {
    let silence = Duration::from_millis(200);
    assert!(tokio::time::timeout(silence, stream.next()).await.is_err(), "the stream goes on");
    assert!(tokio::time::timeout(silence, socket.next()).await.is_err(), "the WebSocket goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_key_is_revoked_and_not_while_that_is_unknown() {
    let mut setting = Setting::new().await;
    let page = format!("/{ALICE}");
    let (old, new) = (Key::p256(1), Key::secp256k1(2));
    publish(&setting.directory, &old);
    let developer = setting.app.persona();
    let mut other = developer.xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    let (mut stream, mut socket) = (setting.follow(&old).await, setting.subscribe(&old).await);

    for answer in [None, Some(Answer::Status(503)), Some(Answer::Body(b"<html>".to_vec()))] {
        if let Some(answer) = answer {
            setting.directory.put(&page, answer);
        }
        let asked = setting.directory.hits(&page);
        setting.check().await;
        assert_eq!(setting.directory.hits(&page), asked + 1, "once for all streams of one caller");
        goes_on(&mut stream, &mut socket).await;
    }

    publish(&setting.directory, &new);
    setting.check().await;
    assert_eq!(soon(stream.next()).await.unwrap().unwrap().data["info"], "identityChanged");
    assert!(soon(stream.next()).await.unwrap().is_none());
    match soon(socket.next()).await.unwrap() {
        Some(Frame::Event(name, data)) => {
            assert_eq!((&*name, &data["info"]), ("#infoEvent", &json!("identityChanged")));
        }
        frame => panic!("{frame:?}"),
    }
    assert!(matches!(soon(socket.next()).await.unwrap(), Some(Frame::Closed(1008, _))));

    // The directory has a tombstone for the DID.
    let mut stream = setting.follow(&new).await;
    setting.directory.put(&page, Answer::Status(410));
    setting.check().await;
    assert_eq!(soon(stream.next()).await.unwrap().unwrap().data["info"], "identityChanged");
    // A development token has no key that could change.
    assert!(tokio::time::timeout(Duration::from_millis(200), other.next()).await.is_err());
}
