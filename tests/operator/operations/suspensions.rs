//! Suspension: the account cannot write or subscribe at any replica, can still read, and is accepted again when the
//! suspension is lifted. Other accounts are not affected.

use std::time::{Duration, Instant};

use catbird_client::xrpc::{Event, EventStream, Frame, Reply, Xrpc};
use catbird_server::api::ROUTES;
use catbird_server::suspensions::POLL_INTERVAL;
use catbird_server::xrpc::Kind;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode, run_with};
use serde_json::json;

/// Time of a poll on a busy machine, in addition to the interval.
const BUSY: Duration = Duration::from_secs(8);

const REFUSED: (u16, Option<&str>) = (403, Some("AccountSuspended"));

async fn operator(arguments: &[&str], url: &str) -> String {
    let (code, said, errors) = run_with(&[&["admin"], arguments].concat(), url).await;
    assert_eq!(code, Some(0), "{errors}");
    said
}

/// A request that needs the right to write.
async fn write(who: &Xrpc, convo: &str) -> Reply {
    who.procedure("updateRead", &json!({ "convoId": convo })).await.unwrap()
}

async fn until_writing_gets(status: u16, at: &[Xrpc], convo: &str) {
    let start = Instant::now();
    for who in at {
        while write(who, convo).await.status != status {
            assert!(start.elapsed() < POLL_INTERVAL + BUSY, "no {status} after {:?}", start.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn follow(who: &Xrpc) -> Result<EventStream, Reply> {
    let mut stream = who.follow("streamConvoEvents", &[], None).await.unwrap()?;
    stream.skip().await.unwrap();
    Ok(stream)
}

/// Reads a stream to its end.
async fn rest(mut stream: EventStream) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) =
        tokio::time::timeout(POLL_INTERVAL + BUSY, stream.next()).await.expect("the stream goes on").unwrap()
    {
        events.push(event);
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_reads_and_does_nothing_else_at_any_replica() {
    let database = database().await;
    let fleet = Fleet::with(&[Mode::Advisory, Mode::Actors], &database.config, &database.url, &[]).await;
    let members = fleet.conversation(2).await;
    let convo = members[0].convo().unwrap();
    let alice = &members[0].xrpc;
    let mallory = [0, 1].map(|n| fleet.xrpc(n, members[1].did()));
    let did = members[1].did();
    let mut streams = Vec::new();
    for who in &mallory {
        streams.push(follow(who).await.unwrap());
    }
    let mut of_alice = follow(alice).await.unwrap();
    let mut tickets = Vec::new();
    for _ in 0..2 {
        let reply = mallory[0].procedure("getSubscriptionTicket", &json!({})).await.unwrap();
        tickets.push([("ticket", reply.body["ticket"].as_str().unwrap().to_owned())]);
    }
    let mut socket = mallory[0].subscribe("subscribeConvoEvents", &tickets[0]).await.unwrap().unwrap();

    let planned = operator(&["suspend", did, "did:plc:nobody", "--reason", "spam", "--dry-run"], &database.url).await;
    let said = operator(&["suspend", did, "did:plc:nobody", "--reason", "spam"], &database.url).await;
    assert_eq!(said, format!("{did} {{\"suspended\":1}}\ndid:plc:nobody {{\"suspended\":1}}\n"));
    assert_eq!(planned, said);
    until_writing_gets(403, &mallory, convo).await;

    for stream in streams {
        let last = rest(stream).await.pop().unwrap();
        assert_eq!((last.name.as_str(), &last.data["info"]), ("infoEvent", &json!("suspended")));
    }
    let mut frames = Vec::new();
    while let Some(frame) = socket.next().await.unwrap() {
        frames.push(frame);
    }
    assert!(
        frames.iter().any(|frame| matches!(frame, Frame::Error(name, _) if name == "AccountSuspended")),
        "{frames:?}"
    );
    for who in &mallory {
        for route in ROUTES {
            let method = route.method();
            let reply = match route.kind {
                Kind::Procedure => who.procedure(method, &json!({})).await.unwrap(),
                Kind::Query if method == "streamConvoEvents" => follow(who).await.err().unwrap(),
                Kind::Query => who.query(method, &[("convoId", convo.to_owned())]).await.unwrap(),
                Kind::Subscription => who.subscribe(method, &tickets[1]).await.unwrap().err().unwrap(),
            };
            let reads =
                route.kind == Kind::Query && !["getGroupInfo", "getKeyPackages", "streamConvoEvents"].contains(&method);
            assert_eq!((reply.status, reply.error()) != REFUSED, reads, "{method}: {reply}");
        }
        let read = who.query("getMessages", &[("convoId", convo.to_owned())]).await.unwrap();
        assert_eq!(read.status, 200, "{read}");
    }
    assert_eq!(write(alice, convo).await.status, 200);
    let listed = operator(&["suspensions"], &database.url).await;
    assert!(listed.contains(&format!("{}  spam\n", did)) && listed.ends_with("2 suspended\n"), "{listed}");

    let planned =
        operator(&["release", did, "did:plc:never", "--reason", "a mistake", "--dry-run"], &database.url).await;
    let said = operator(&["release", did, "did:plc:never", "--reason", "a mistake"], &database.url).await;
    assert_eq!(said, format!("{did} {{\"released\":1}}\ndid:plc:never {{\"released\":0}}\n"));
    assert_eq!(planned, said);
    let runs = operator(&["audit", "--target", did], &database.url).await;
    assert!(
        runs.contains(&format!("release {did}")) && runs.ends_with("2 runs\n"),
        "dry runs are not recorded: {runs}"
    );
    until_writing_gets(200, &mallory, convo).await;
    drop(follow(&mallory[1]).await.unwrap());
    of_alice.skip().await.unwrap();
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_knows_the_suspended_before_it_takes_requests() {
    let database = database().await;
    let someone = catbird_client::random_did();
    operator(&["suspend", &someone, "--reason", "spam"], &database.url).await;
    let fleet = Fleet::with(&[Mode::Advisory], &database.config, &database.url, &[]).await;
    let refused = fleet.xrpc(0, &someone).procedure("createConvo", &json!({})).await.unwrap();
    assert_eq!((refused.status, refused.error()), REFUSED);
    let (code, _, errors) = run_with(&["admin", "suspend", &someone], &database.url).await;
    assert_eq!(code, Some(2), "a reason is asked for");
    assert!(errors.contains("--reason"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_resolve_the_log_name_of_a_refused_caller() {
    let database = database().await;
    let settings = [("RATE_LIMIT_PER_DID", "1"), ("RUST_LOG", "warn,catbird_server=info")];
    let fleet = Fleet::with(&[Mode::Advisory], &database.config, &database.url, &settings).await;
    let [greedy, modest] = [(); 2].map(|()| catbird_client::random_did());
    assert_eq!(fleet.xrpc(0, &modest).query("getConvos", &[]).await.unwrap().status, 200);
    let mut refused = 0;
    while refused < 10 {
        refused += usize::from(fleet.xrpc(0, &greedy).query("getConvos", &[]).await.unwrap().status == 429);
    }
    let named: Vec<serde_json::Value> =
        fleet.replicas[0].log().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let named: Vec<_> = named.iter().filter_map(|line| line["caller"].as_str()).collect();
    assert_eq!(named.len(), 1, "once a minute: {named:?}");
    assert!(!fleet.replicas[0].log().iter().any(|line| line.contains(&greedy) || line.contains(&modest)));

    // A development token has no document that would be stored.
    let keep = "insert into did_documents (did, account_key, fetched_at) select unnest($1::text[]), 'z', now()";
    database.connect().await.execute(keep, &[&vec![&greedy, &modest]]).await.unwrap();
    let said = operator(&["who", named[0], "--reason", "a flood"], &database.url).await;
    assert_eq!(said, format!("{greedy}\nfound 1 among the callers of the last 30 days\n"));
    assert_eq!(operator(&["name", &greedy], &database.url).await, format!("{}  {greedy}\n", named[0]));
    assert_eq!(
        operator(&["who", "0", "--reason", "a flood"], &database.url).await,
        "found 0 among the callers of the last 30 days\n"
    );
}
