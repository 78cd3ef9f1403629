//! Latency of events: from the reply to a message until its event is at a client of another replica, for each way in
//! which replicas notify each other, and beside clients that read too slowly.
//!
//! Messages are sent at a steady pace that is independent of replies and events, so that the figures of polling are not
//! in step with the poll. Each load has two replicas of its own: clients send to one and follow at the other. The rate
//! only shows that all events arrived; the latency is the result. Slow readers read nothing for a while, are
//! disconnected, and resume with their cursor.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catbird_bench_report::results::{Sample, Who};
use catbird_client::xrpc::{self, EventStream, Xrpc, bytes_value};
use catbird_testkit::redis::Redis;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::bench::{Bench, Figure};
use crate::support::measurement::Latencies;
use crate::support::plan::{Plan, SERVERS, Turn};
use crate::support::seed::Convo;
use crate::support::server::Server;
use crate::support::tokens::{SECRET, SERVICE_DID};
use crate::support::{Failure, Result};

pub const NAME: &str = "events";

/// Maximum wait for the last event.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for which a slow reader reads nothing. Then it reads until it is disconnected or has everything, and starts
/// again.
const STALL: Duration = Duration::from_millis(2_500);
/// A reader that receives nothing for this long has everything.
const SILENCE: Duration = Duration::from_millis(100);
const METHOD: &str = "streamConvoEvents";

/// How replicas notify each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Redis,
    Notify,
    Poll,
}

/// One load.
struct Course {
    variant: &'static str,
    note: &'static str,
    transport: Transport,
    /// Number of conversations, each with one sending member.
    convos: u32,
    /// Members of each conversation that follow, and that read slowly.
    followers: usize,
    slow: usize,
    /// Messages per second to each conversation.
    pace: f64,
    bytes: usize,
}

const fn alone(variant: &'static str, transport: Transport, note: &'static str) -> Course {
    Course { variant, note, transport, convos: 8, followers: 1, slow: 0, pace: 12.5, bytes: 512 }
}

const fn crowd(variant: &'static str, slow: usize, note: &'static str) -> Course {
    Course { variant, note, transport: Transport::Redis, convos: 1, followers: 4, slow, pace: 80.0, bytes: 64 * 1024 }
}

const COURSES: [Course; 5] = [
    alone(
        "Redis",
        Transport::Redis,
        "from the reply to a message to its event at a client of another replica, 100 messages/s",
    ),
    alone("NOTIFY", Transport::Notify, "the same without Redis"),
    alone("polling", Transport::Poll, "the same without notifications"),
    crowd("no slow readers", 0, "80 messages/s of 64 KiB to one conversation, 4 clients that read"),
    crowd(
        "beside slow readers",
        2,
        "the same 4 clients, beside 2 that read nothing for seconds, are disconnected, and reconnect",
    ),
];

pub fn time(plan: &Plan) -> Duration {
    (plan.timing.warm_up + plan.timing.measured) * (COURSES.len() * SERVERS.len()) as u32 * plan.rounds
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let redis = Redis::start();
    let once = Plan { connections: &[1], ..bench.plan.clone() };
    for turn in once.turns(&SERVERS) {
        for course in &COURSES {
            let sample = measure(bench, course, turn.who, &redis).await?;
            let figure = Figure { scenario: NAME, variant: course.variant, unit: "events/s", note: course.note };
            // The measured connections are those of the clients that follow.
            bench.record(&figure, Turn { connections: course.convos * course.followers as u32, ..turn }, sample)?;
        }
    }
    Ok(())
}

/// Two replicas: clients send to one and follow at the other.
async fn pair(bench: &Bench, who: Who, transport: Transport, redis: &Redis) -> Result<[Server; 2]> {
    let url = redis.url();
    let settings = match transport {
        Transport::Redis => vec![("REDIS_URL", url.as_str())],
        Transport::Notify => Vec::new(),
        Transport::Poll => vec![("DATABASE_POOLER", "true")],
    };
    let settings = [settings, vec![("SSE_BUFFER_SIZE", "40")]].concat();
    let pair = [
        bench.stage.another_server(who, "events_sent_to", &settings).await?,
        bench.stage.another_server(who, "events_followed_at", &settings).await?,
    ];
    for server in &pair {
        let page = format!("http://{}/health/ready", server.address);
        let deadline = Instant::now() + PATIENCE;
        let is_listening = async || -> Result<bool> {
            let ready: Value = xrpc::http()?.get(&page).send().await?.json().await?;
            Ok(transport == Transport::Poll || ready["hints"]["listening"] == true)
        };
        while !is_listening().await? {
            if Instant::now() > deadline {
                return Err("a replica does not receive notifications".into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(pair)
}

/// The newest entry of each conversation, after the last message.
type Newest = watch::Receiver<Option<HashMap<String, u64>>>;

/// Arrival times by conversation and seq.
type Moments = HashMap<(String, u64), Instant>;

async fn measure(bench: &Bench, course: &Course, who: Who, redis: &Redis) -> Result<Sample> {
    let members = 1 + course.followers + course.slow;
    let convos = bench.stage.seed(course.convos, members as u32).await?;
    let [sent_to, followed_at] = pair(bench, who, course.transport, redis).await?;
    let (tell, newest) = watch::channel(None);
    let (mut followers, mut slow) = (Vec::new(), Vec::new());
    let told = Arc::new(AtomicU64::new(0));
    for convo in convos.iter() {
        for (n, did) in convo.members[1..].iter().enumerate() {
            let who = sign_in(&followed_at, did)?;
            let stream = open(&who, None).await?;
            match n < course.followers {
                true => followers.push(tokio::spawn(follow(stream, convo.id.clone(), newest.clone()))),
                false => slow.push(tokio::spawn(stall(who, stream, told.clone(), newest.clone()))),
            }
        }
    }
    let begin = Instant::now() + bench.plan.timing.warm_up;
    let end = begin + bench.plan.timing.measured;
    let mut senders = Vec::new();
    for (n, convo) in convos.iter().enumerate() {
        let first = Duration::from_secs_f64(n as f64 / course.pace / f64::from(course.convos));
        let who = sign_in(&sent_to, &convo.members[0])?;
        senders.push(tokio::spawn(send(who, message(convo, course.bytes), course.pace, first, end)));
    }
    let mut answered = Moments::new();
    for sender in senders {
        answered.extend(joined(sender).await?);
    }
    let mut sent: HashMap<String, u64> = HashMap::new();
    for (convo, seq) in answered.keys() {
        let last = sent.entry(convo.clone()).or_default();
        *last = (*last).max(*seq);
    }
    tell.send_replace(Some(sent));
    let mut latencies = Latencies::new();
    let wanted = answered.values().filter(|at| **at >= begin).count() * course.followers;
    for follower in followers {
        let arrived = joined(follower).await?;
        for (entry, at) in arrived {
            if let Some(answer) = answered.get(&entry).filter(|answer| **answer >= begin) {
                // The event may arrive before the reply.
                latencies.add(at.saturating_duration_since(*answer));
            }
        }
    }
    for reader in slow {
        joined(reader).await?;
    }
    if latencies.count() != wanted as u64 {
        return Err(format!("{} of {wanted} events arrived", latencies.count()).into());
    }
    let mut sample = Sample { rate: wanted as f64 / bench.plan.timing.measured.as_secs_f64(), ..latencies.sample() };
    if course.slow > 0 {
        sample.extra.insert("slow_readers_cut".to_owned(), told.load(Ordering::Relaxed) as f64);
    }
    Ok(sample)
}

async fn joined<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    task.await?
}

fn message(convo: &Convo, bytes: usize) -> Value {
    // Bytes that the server does not parse as an MLS message.
    json!({ "convoId": convo.id, "ciphertext": bytes_value(&vec![b'x'; bytes]), "epoch": 0 })
}

pub(super) async fn open(who: &Xrpc, cursor: Option<&str>) -> Result<EventStream> {
    let opened = who.follow(METHOD, &[], cursor).await?;
    opened.map_err(|refused| Failure::from(refused.to_string()))
}

/// A caller at a server.
pub(super) fn sign_in(server: &Server, did: &str) -> Result<Xrpc> {
    Ok(Xrpc::new(&format!("http://{}", server.address), did, SECRET, SERVICE_DID)?)
}

/// Sends at a steady pace, and records the time of each reply.
async fn send(who: Xrpc, message: Value, pace: f64, first: Duration, end: Instant) -> Result<Moments> {
    let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + first, Duration::from_secs_f64(1.0 / pace));
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let convo = message["convoId"].as_str().unwrap_or_default().to_owned();
    let mut answered = Moments::new();
    while Instant::now() < end {
        clock.tick().await;
        let reply = who.procedure("sendMessage", &message).await?;
        if reply.status != 200 {
            return Err(reply.to_string().into());
        }
        answered.insert((convo.clone(), reply.number("seq")?), Instant::now());
    }
    Ok(answered)
}

/// Follows until it has the newest entry after the last message, and records the time of each event.
async fn follow(mut stream: EventStream, convo: String, mut newest: Newest) -> Result<Moments> {
    let mut arrived = Moments::new();
    let mut last = None;
    let has_all = |newest: &Option<HashMap<String, u64>>, last| {
        newest.as_ref().is_some_and(|newest| newest.get(&convo).copied() <= last)
    };
    loop {
        let event = tokio::select! {
            event = stream.next() => event?.ok_or("a stream ended that was read")?,
            // The stream is dropped only when no more events are expected.
            _ = newest.wait_for(|newest| has_all(newest, last)) => return Ok(arrived),
            () = tokio::time::sleep(PATIENCE) => return Err("an event did not arrive".into()),
        };
        let at = Instant::now();
        if let Some(seq) = event.data["message"]["seq"].as_u64() {
            arrived.entry((convo.clone(), seq)).or_insert(at);
            last = last.max(Some(seq));
        }
    }
}

/// Stalls repeatedly, and reconnects whenever it is disconnected.
async fn stall(who: Xrpc, mut stream: EventStream, told: Arc<AtomicU64>, mut newest: Newest) -> Result<()> {
    let mut cursor = stream.last_id.clone();
    loop {
        tokio::select! {
            _ = newest.wait_for(Option::is_some) => return Ok(()),
            () = tokio::time::sleep(STALL) => {}
        }
        while let Ok(event) = tokio::time::timeout(SILENCE, stream.next()).await {
            match event? {
                Some(event) => {
                    told.fetch_add(u64::from(event.data["info"] == "slowConsumer"), Ordering::Relaxed);
                    cursor = Some(event.id);
                }
                None => {
                    stream = open(&who, cursor.as_deref()).await?;
                    break;
                }
            }
        }
    }
}
