//! A client that follows the stream at whatever replica answers, comes back from its cursor whenever it is cut off, records
//! everything, and holds each event against what it has seen before. Where it is told to start anew, it forgets what it knows, follows
//! without a cursor, and reads its conversations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use catbird_client::xrpc::{Event, Reply, Xrpc, XrpcError};
use catbird_testkit::lexicon::validate_event;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

const NSID: &str = "blue.catbird.mls.streamConvoEvents";
/// The pause before it tries the next server.
const PAUSE: Duration = Duration::from_millis(20);

/// What a client is about.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It asks for a stream, or waits to ask again.
    #[default]
    Connecting,
    /// It has an answer and waits for the stream to begin.
    Beginning,
    Reading,
}

/// What one client saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// The entries of each conversation in the order in which they came, repetitions included.
    pub entries: BTreeMap<String, Vec<u64>>,
    /// How many of these came, and how many of them again.
    pub came: u64,
    pub again: u64,
    /// The same entries, each once, and those that were read from the log.
    pub distinct: BTreeMap<String, BTreeSet<u64>>,
    /// The memberships that it was told of while it followed: where each began, or ended with `false`.
    pub memberships: BTreeMap<String, BTreeSet<(u64, bool)>>,
    /// The id of each entry that it has.
    pub ids: BTreeMap<String, BTreeMap<u64, String>>,
    /// Whether it was told last that it is a member, for each conversation that it was told of.
    pub is_member: BTreeMap<String, bool>,
    /// How far it has read each log where it began anew. The stream, which began sooner, brings some of that later.
    pub read_to: BTreeMap<String, u64>,
    /// How often it was told to start anew, by error.
    pub anew: BTreeMap<String, u64>,
    /// How often it had to connect.
    pub connections: u64,
    /// What it does now: where a client that lacks something waits.
    pub doing: Doing,
    /// How often it was told why its stream ended, by reason.
    pub farewells: BTreeMap<String, u64>,
    /// What else it was told, by type.
    pub others: Vec<(String, Value)>,
    /// Whether it has been told that it is up to date since it connected last, or began without a cursor.
    pub live: bool,
    /// What no client should ever see, in words.
    pub broken: Vec<String>,
}

impl Seen {
    /// Whether it has seen an entry.
    pub fn has(&self, convo: &str, seq: u64) -> bool {
        self.distinct.get(convo).is_some_and(|seqs| seqs.contains(&seq))
    }

    /// Panics unless the entries of a conversation, taken together, are exactly these, and each that was new came in order.
    #[track_caller]
    pub fn is_exactly(&self, convo: &str, wanted: std::ops::RangeInclusive<u64>) {
        assert!(self.broken.is_empty(), "{:?}", self.broken);
        let seqs = self.entries.get(convo).cloned().unwrap_or_default();
        let mut newest = *wanted.start() - 1;
        for seq in &seqs {
            assert!(*seq <= newest + 1, "a hole before {seq}, after {newest}: {seqs:?}");
            newest = newest.max(*seq);
        }
        assert_eq!((seqs.iter().min(), newest), (Some(wanted.start()), *wanted.end()), "{seqs:?}");
    }

    /// How many events brought an entry, and how many of these one that it had already.
    pub fn counts(&self) -> (u64, u64) {
        (self.came, self.again)
    }

    /// Takes one event. What came before may come again; what is new has to come where it belongs.
    fn take(&mut self, name: &str, data: &Value) {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        match name {
            "messageEvent" => {
                let convo = data["message"]["convoId"].as_str().unwrap_or_default();
                self.take_id(convo, &data["message"]);
                self.take_entry(convo, number(&data["message"]["seq"]), number(&data["prevSeq"]));
                return;
            }
            "conversationEvent" | "removedEvent" => {
                let convo = data["convoId"].as_str().unwrap_or_default();
                let memberships = self.memberships.entry(convo.to_owned()).or_default();
                memberships.insert((number(&data["seq"]), name == "conversationEvent"));
                self.is_member.insert(convo.to_owned(), name == "conversationEvent");
            }
            "infoEvent" if data["info"] == "replayed" => self.live = true,
            "infoEvent" => {
                *self.farewells.entry(data["info"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            }
            _ => {}
        }
        self.others.push((name.to_owned(), data.clone()));
    }

    /// Notes the id of an entry, which never changes.
    fn take_id(&mut self, convo: &str, entry: &Value) {
        let (seq, id) = (entry["seq"].as_u64().unwrap_or_default(), entry["id"].as_str().unwrap_or_default());
        let before = self.ids.entry(convo.to_owned()).or_default().insert(seq, id.to_owned());
        if let Some(before) = before.filter(|before| before != id) {
            self.broken.push(format!("entry {seq} of {convo} was {before} and is {id}"));
        }
    }

    /// Forgets what it knows, as `error` says.
    fn start_anew(&mut self, error: &str) {
        *self.anew.entry(error.to_owned()).or_default() += 1;
        self.entries.clear();
        self.distinct.clear();
        self.memberships.clear();
        self.ids.clear();
        self.is_member.clear();
        self.read_to.clear();
    }

    /// Takes an entry that it has read from the log.
    fn take_read(&mut self, convo: &str, entry: &Value) {
        self.take_id(convo, entry);
        let seq = entry["seq"].as_u64().unwrap_or_default();
        self.distinct.entry(convo.to_owned()).or_default().insert(seq);
        self.read_to.insert(convo.to_owned(), seq);
    }

    fn take_entry(&mut self, convo: &str, seq: u64, prev: u64) {
        let distinct = self.distinct.entry(convo.to_owned()).or_default();
        // The memberships that it knows of, unless it was in the conversation before it followed.
        let told = self.memberships.get(convo);
        let came_back = self.connections > 1;
        if came_back && told.is_none() && distinct.first().is_some_and(|first| seq < *first) {
            // From before it followed: its cursor is older than that if a transaction was under way then, anywhere in the cluster.
            if prev + 1 != seq {
                self.broken.push(format!("entry {seq} of {convo} is said to follow {prev}"));
            }
            return;
        }
        self.entries.entry(convo.to_owned()).or_default().push(seq);
        self.came += 1;
        let newest = distinct.last().copied();
        if !distinct.insert(seq) {
            self.again += 1;
            return;
        }
        if self.read_to.get(convo).is_some_and(|read| seq <= *read) {
            return;
        }
        let joined = told.and_then(|told| told.iter().rfind(|(_, joined)| *joined)).map(|(at, _)| *at);
        let left = told.and_then(|told| told.iter().rfind(|(_, joined)| !*joined)).map(|(at, _)| *at);
        let position = newest.max(joined);
        if position.is_some_and(|position| seq <= position) {
            self.broken.push(format!("entry {seq} of {convo} came for the first time after {position:?}"));
        } else if position.is_some_and(|position| prev != position) {
            self.broken.push(format!("entry {seq} of {convo} follows {prev}, and came after {position:?}"));
        } else if prev + 1 != seq {
            self.broken.push(format!("entry {seq} of {convo} is said to follow {prev}"));
        } else if left.is_some_and(|left| seq > left && joined.is_none_or(|joined| joined < left)) {
            self.broken.push(format!("entry {seq} of {convo} came after the removal at {left:?}"));
        }
    }
}

/// See the module. Ends with its value.
pub struct Checker {
    seen: Arc<Mutex<Seen>>,
    changed: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    /// Follows everything that concerns `who`, at these servers in turn.
    pub fn start(who: &Xrpc, servers: watch::Receiver<Vec<String>>) -> Self {
        Self::start_at(who, servers, 0)
    }

    /// As [`Checker::start`], at the `turn`-th server first.
    pub fn start_at(who: &Xrpc, servers: watch::Receiver<Vec<String>>, turn: usize) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (change, changed) = watch::channel(0);
        let task = tokio::spawn(follow(who.with_own_connections(), servers, turn, seen.clone(), change));
        Self { seen, changed, task }
    }

    /// What it has seen by now.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Something of what it has seen by now.
    pub fn with<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.seen.lock().unwrap())
    }

    /// Where it is in following, in words.
    pub fn whereabouts(&self) -> String {
        let (doing, live) = self.with(|seen| (seen.doing, seen.live));
        let died = if self.task.is_finished() { ", and has given up" } else { "" };
        format!("{doing:?}, live: {live}{died}")
    }

    /// Waits until it has seen enough, for as long as nothing takes; whether it has.
    pub async fn within(&self, patience: Duration, enough: impl Fn(&Seen) -> bool) -> bool {
        let mut changed = self.changed.clone();
        let come = changed.wait_for(|_| enough(&self.seen.lock().unwrap()));
        tokio::time::timeout(patience, come).await.is_ok_and(|come| come.is_ok())
    }

    /// Waits until it has seen enough.
    pub async fn until(&self, what: &str, enough: impl Fn(&Seen) -> bool) {
        assert!(self.within(PATIENCE, enough).await, "{what} did not come: {:?}", self.seen());
    }
}

async fn follow(
    who: Xrpc,
    servers: watch::Receiver<Vec<String>>,
    mut turn: usize,
    seen: Arc<Mutex<Seen>>,
    change: watch::Sender<u64>,
) {
    let note = |what: &mut dyn FnMut(&mut Seen)| {
        what(&mut seen.lock().unwrap());
        change.send_modify(|count| *count += 1);
    };
    let mut cursor: Option<String> = None;
    let mut anew = false;
    loop {
        let server: Url = {
            let servers = servers.borrow();
            servers[turn % servers.len()].parse().unwrap()
        };
        turn += 1;
        note(&mut |seen| seen.doing = Doing::Connecting);
        let mut stream = match who.at(server.clone()).follow("streamConvoEvents", &[], cursor.as_deref()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(reply)) if reply.body["recovery"] == json!("startAnew") => {
                note(&mut |seen| seen.start_anew(reply.error().unwrap_or_default()));
                (cursor, anew) = (None, true);
                continue;
            }
            refused => {
                // A server that dies, drains or has no database refuses. Nothing is wrong with the cursor or the caller.
                let wrong = match refused {
                    Ok(Err(reply)) if !matches!(reply.status, 429 | 503) => Some(format!("refused: {reply}")),
                    Err(why @ XrpcError::Silent { .. }) => Some(why.to_string()),
                    _ => None,
                };
                note(&mut |seen| seen.broken.extend(wrong.clone()));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        note(&mut |seen| seen.doing = Doing::Beginning);
        if stream.skip().await.is_err() {
            continue;
        }
        note(&mut |seen| {
            seen.doing = Doing::Reading;
            seen.connections += 1;
            seen.live = cursor.is_none() && !anew;
        });
        if anew {
            // Where the log cannot be read, it begins once more with what it has by then, which it may have read a part of.
            let Some(read) = read_all(&who.at(server)).await else {
                note(&mut |seen| seen.start_anew("unread"));
                cursor = None;
                continue;
            };
            note(&mut |seen| {
                for (convo, entries) in &read {
                    seen.is_member.insert(convo.clone(), true);
                    seen.ids.entry(convo.clone()).or_default();
                    entries.iter().for_each(|entry| seen.take_read(convo, entry));
                }
                seen.live = true;
            });
            anew = false;
        }
        loop {
            match stream.next().await {
                Ok(Some(Event { name, data, .. })) => {
                    validate_event(NSID, &data).unwrap_or_else(|why| panic!("{why}\n{data}"));
                    note(&mut |seen| seen.take(&name, &data));
                }
                Err(why @ XrpcError::Silent { .. }) => {
                    note(&mut |seen| seen.broken.push(why.to_string()));
                    break;
                }
                Ok(None) | Err(_) => break,
            }
        }
        // Also one that came with no event.
        cursor = stream.last_id.or(cursor);
    }
}

/// Everything that somebody may read, by conversation. `None`: some of it could not be read.
async fn read_all(who: &Xrpc) -> Option<BTreeMap<String, Vec<Value>>> {
    let mut all = BTreeMap::new();
    let convos = who.query("getConvos", &[("limit", "100".to_owned())]).await.ok().filter(Reply::is_ok)?;
    'convos: for convo in convos.list("conversations").unwrap() {
        let convo = convo["id"].as_str().unwrap();
        let mut entries: Vec<Value> = Vec::new();
        loop {
            let after = entries.last().map_or(0, |last| last["seq"].as_u64().unwrap());
            let position = [
                ("convoId", convo.to_owned()),
                ("sinceSeq", after.to_string()),
                ("limit", "100".to_owned()),
                ("peek", "true".to_owned()),
            ];
            let page = who.query("getMessages", &position).await.ok()?;
            match page.status {
                // It was removed meanwhile, will be told, and cannot read the rest.
                403 | 404 => continue 'convos,
                200 if page.list("messages").unwrap().is_empty() => break,
                200 => entries.extend_from_slice(page.list("messages").unwrap()),
                _ => return None,
            }
        }
        all.insert(convo.to_owned(), entries);
    }
    Some(all)
}
