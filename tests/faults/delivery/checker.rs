//! A client that follows the stream at any replica that answers, reconnects with its cursor when it is cut off, records
//! everything, and compares each event with its records. When it is told to start over, it drops its records,
//! subscribes without a cursor, and reads its conversations.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use catbird_client::xrpc::{Event, Reply, Xrpc, XrpcError};
use catbird_testkit::lexicon::validate_event;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

const NSID: &str = "blue.catbird.mls.streamConvoEvents";
/// Pause before it tries the next server.
const PAUSE: Duration = Duration::from_millis(20);

/// Number of its last happenings that a violation tells.
const TRAIL: usize = 60;

/// Activity of a client.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It requests a stream, or waits to request one again.
    #[default]
    Connecting,
    /// It has a reply and waits for the stream to start.
    Beginning,
    Reading,
}

/// Records of one client.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Entries of each conversation in order of arrival, repetitions included.
    pub entries: BTreeMap<String, Vec<u64>>,
    /// Number of these that arrived, and number that were repetitions.
    pub came: u64,
    pub again: u64,
    /// The same entries without repetitions, and the entries that were read from the log.
    pub distinct: BTreeMap<String, BTreeSet<u64>>,
    /// Memberships that the stream has reported: each start, and each end with `false`.
    pub memberships: BTreeMap<String, BTreeSet<(u64, bool)>>,
    /// Ids of its entries.
    pub ids: BTreeMap<String, BTreeMap<u64, String>>,
    /// Last reported membership of each conversation.
    pub is_member: BTreeMap<String, bool>,
    /// Position up to which it has read each log when it started over. The stream, which started earlier, repeats some
    /// of these entries.
    pub read_to: BTreeMap<String, u64>,
    /// Number of times that it was told to start over, by error.
    pub anew: BTreeMap<String, u64>,
    /// Number of connections.
    pub connections: u64,
    /// Number of requests for a stream that were refused or not answered.
    pub refused: u64,
    /// Its present activity, which shows where a client that lacks an event waits.
    pub doing: Doing,
    /// Number of final events, by reason.
    pub farewells: BTreeMap<String, u64>,
    /// Other events, by type.
    pub others: Vec<(String, Value)>,
    /// True once it was told that it is up to date since its last connection, or started without a cursor.
    pub live: bool,
    /// Violations, as sentences, each with what happened before it.
    pub broken: Vec<String>,
    /// Its last happenings.
    trail: VecDeque<String>,
}

impl Seen {
    /// Returns true if it has seen an entry.
    pub fn has(&self, convo: &str, seq: u64) -> bool {
        self.distinct.get(convo).is_some_and(|seqs| seqs.contains(&seq))
    }

    /// Panics unless it has exactly these entries of a conversation, each first seen in order.
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

    /// Returns the number of events with an entry, and the number of repetitions.
    pub fn counts(&self) -> (u64, u64) {
        (self.came, self.again)
    }

    fn happens(&mut self, what: String) {
        if self.trail.len() == TRAIL {
            self.trail.pop_front();
        }
        self.trail.push_back(what);
    }

    fn violates(&mut self, what: String) {
        let trail: Vec<&str> = self.trail.iter().map(String::as_str).collect();
        self.broken.push(format!("{what}; before that:\n  {}", trail.join("\n  ")));
    }

    /// Records one event. Earlier events may repeat; new ones must be in order.
    fn take(&mut self, name: &str, data: &Value) {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        self.happens(match name {
            "messageEvent" => {
                format!("{name} {} {} after {}", data["message"]["convoId"], data["message"]["seq"], data["prevSeq"])
            }
            _ => format!("{name} {} {} {}", data["convoId"], data["seq"], data["info"]),
        });
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

    /// Records the id of an entry, which never changes.
    fn take_id(&mut self, convo: &str, entry: &Value) {
        let (seq, id) = (entry["seq"].as_u64().unwrap_or_default(), entry["id"].as_str().unwrap_or_default());
        let before = self.ids.entry(convo.to_owned()).or_default().insert(seq, id.to_owned());
        if let Some(before) = before.filter(|before| before != id) {
            self.violates(format!("entry {seq} of {convo} was {before} and is {id}"));
        }
    }

    /// Drops its records, as `error` demands.
    fn start_anew(&mut self, error: &str) {
        *self.anew.entry(error.to_owned()).or_default() += 1;
        self.happens(format!("it was told to start anew: {error}"));
        self.entries.clear();
        self.distinct.clear();
        self.memberships.clear();
        self.ids.clear();
        self.is_member.clear();
        self.read_to.clear();
    }

    /// Records an entry from the log.
    fn take_read(&mut self, convo: &str, entry: &Value) {
        self.take_id(convo, entry);
        let seq = entry["seq"].as_u64().unwrap_or_default();
        self.distinct.entry(convo.to_owned()).or_default().insert(seq);
        self.read_to.insert(convo.to_owned(), seq);
    }

    fn take_entry(&mut self, convo: &str, seq: u64, prev: u64) {
        let distinct = self.distinct.entry(convo.to_owned()).or_default();
        let told = self.memberships.get(convo);
        // Otherwise it was a member before it subscribed. Then it may have been told of an end alone.
        let saw_a_start = told.is_some_and(|told| told.iter().any(|(_, joined)| *joined));
        let came_back = self.connections > 1;
        if came_back && !saw_a_start && distinct.first().is_some_and(|first| seq < *first) {
            // An entry from before it subscribed: its cursor is older if a transaction was open then, anywhere in the
            // cluster.
            if prev + 1 != seq {
                self.violates(format!("entry {seq} of {convo} is said to follow {prev}"));
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
            self.violates(format!("entry {seq} of {convo} came for the first time after {position:?}"));
        } else if position.is_some_and(|position| prev != position) {
            self.violates(format!("entry {seq} of {convo} follows {prev}, and came after {position:?}"));
        } else if prev + 1 != seq {
            self.violates(format!("entry {seq} of {convo} is said to follow {prev}"));
        } else if left.is_some_and(|left| seq > left && joined.is_none_or(|joined| joined < left)) {
            self.violates(format!("entry {seq} of {convo} came after the removal at {left:?}"));
        }
    }
}

/// A running client. It ends with this value.
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
    /// Follows all events of `who`, at these servers in turn.
    pub fn start(who: &Xrpc, servers: watch::Receiver<Vec<String>>) -> Self {
        Self::start_at(who, servers, 0)
    }

    /// Like [`Checker::start`], beginning at the `turn`-th server.
    pub fn start_at(who: &Xrpc, servers: watch::Receiver<Vec<String>>, turn: usize) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (change, changed) = watch::channel(0);
        let task = tokio::spawn(follow(who.with_own_connections(), servers, turn, seen.clone(), change));
        Self { seen, changed, task }
    }

    /// Returns a copy of its records.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Reads its records.
    pub fn with<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.seen.lock().unwrap())
    }

    /// Describes its present activity.
    pub fn whereabouts(&self) -> String {
        let (doing, live) = self.with(|seen| (seen.doing, seen.live));
        let died = if self.task.is_finished() { ", and has given up" } else { "" };
        format!("{doing:?}, live: {live}{died}")
    }

    /// Waits until its records satisfy a condition, and returns false if nothing arrives for this long.
    pub async fn within(&self, patience: Duration, enough: impl Fn(&Seen) -> bool) -> bool {
        let mut changed = self.changed.clone();
        let come = changed.wait_for(|_| enough(&self.seen.lock().unwrap()));
        tokio::time::timeout(patience, come).await.is_ok_and(|come| come.is_ok())
    }

    /// Waits until its records satisfy a condition.
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
                // A server that dies, drains or has no database refuses. Cursor and caller are valid.
                let wrong = match refused {
                    Ok(Err(reply)) if !matches!(reply.status, 429 | 503) => Some(format!("refused: {reply}")),
                    Err(why @ XrpcError::Silent { .. }) => Some(why.to_string()),
                    _ => None,
                };
                note(&mut |seen| {
                    seen.refused += 1;
                    wrong.clone().into_iter().for_each(|wrong| seen.violates(wrong));
                });
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
            seen.happens(format!("a stream of {server} from {cursor:?} on"));
            seen.connections += 1;
            seen.live = cursor.is_none() && !anew;
        });
        if anew {
            // If the log cannot be read, it starts again with its records, which may include part of the log.
            let Some(read) = read_all(&who.at(server)).await else {
                note(&mut |seen| seen.start_anew("unread"));
                cursor = None;
                continue;
            };
            note(&mut |seen| {
                for (convo, entries) in &read {
                    seen.happens(format!(
                        "{convo} was read up to {}",
                        entries.last().map_or(&Value::Null, |last| &last["seq"])
                    ));
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
                    note(&mut |seen| seen.violates(why.to_string()));
                    break;
                }
                Ok(None) | Err(_) => break,
            }
        }
        // Also an id without an event.
        cursor = stream.last_id.or(cursor);
        note(&mut |seen| seen.happens("the stream ended".to_owned()));
    }
}

/// Reads everything that this account may read, by conversation. `None` if part of it could not be read.
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
                // It was removed meanwhile. The stream will say so, and it cannot read the rest.
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
