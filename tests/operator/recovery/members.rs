//! Members with real MLS state that follow the stream all the while, send and commit, and do what docs/clients.md says when the database
//! went back in time.

use std::time::Duration;

use catbird_client::persona::{Events, Found, Landed, Persona, PersonaError, Sent};
use catbird_client::xrpc::{Event, Reply};
use reqwest::Url;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

/// Time between two writes of a member.
const PACE: Duration = Duration::from_millis(40);
/// Every this many writes one is a commit.
const COMMITS: u64 = 3;
/// Maximum time until a member that lost its state is back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Error that a member was told, with `recovery`, and its state compared with the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub error: String,
    pub recovery: String,
    pub found: Found,
}

/// State of a member, as of its last event or write.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Epoch and its authenticator; `None` outside the group.
    pub epoch: Option<(u64, Vec<u8>)>,
    pub last_seq: u64,
    /// Entries that it holds, by seq.
    pub entries: Vec<(u64, String)>,
    /// Texts of the others, in order.
    pub texts: Vec<String>,
    pub told: Vec<Told>,
    /// Acknowledged messages and commits.
    pub sent: Vec<Sent>,
    pub landed: Vec<Landed>,
    /// Incarnations that it heard of, in order.
    pub incarnations: Vec<String>,
    pub connections: u64,
    /// True once it has nothing to write, and all that it wrote is answered.
    pub is_idle: bool,
}

/// Task of a member.
pub enum Task {
    Send(String),
    Add(String),
}

/// A running member. It ends with this value.
pub struct Member {
    pub did: String,
    pub state: watch::Receiver<State>,
    tasks: mpsc::Sender<Task>,
}

impl Member {
    /// Starts a member that follows at these servers, and writes while `writing`.
    pub async fn start(mut persona: Persona, servers: Vec<Url>, turn: usize, writing: watch::Receiver<bool>) -> Self {
        persona.insists = true;
        persona.shares_group_info = true;
        persona.xrpc = persona.xrpc.at(servers[turn % servers.len()].clone());
        let events = Events::follow(&persona.xrpc, servers, turn).await;
        let (publish, state) = watch::channel(State::default());
        let (tasks, told) = mpsc::channel(16);
        let did = persona.did().to_owned();
        tokio::spawn(
            Client { persona, events, state: State::default(), publish, writes: turn as u64 }.live(told, writing),
        );
        Self { did, state, tasks }
    }

    pub async fn task(&self, task: Task) {
        assert!(self.tasks.send(task).await.is_ok(), "{} has given up", self.did);
    }

    /// Waits until its state satisfies a condition.
    pub async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) -> State {
        let mut state = self.state.clone();
        match tokio::time::timeout(PATIENCE, state.wait_for(|state| holds(state))).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => panic!("{} has given up before {what}", self.did),
            Err(_) => panic!("{what} did not come: {:?}", *self.state.borrow()),
        }
    }
}

struct Client {
    persona: Persona,
    events: Events,
    state: State,
    publish: watch::Sender<State>,
    writes: u64,
}

impl Client {
    async fn live(mut self, mut tasks: mpsc::Receiver<Task>, mut writing: watch::Receiver<bool>) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_writing = *writing.borrow_and_update();
            self.state.is_idle = !is_writing;
            self.tell();
            let writes = is_writing && self.persona.convo_id.is_some();
            tokio::select! {
                // It writes only when it has read what has come: one that falls behind cannot read the old epochs any more.
                biased;
                event = self.events.next() => match event.expect("the stream goes on") {
                    Ok(event) => self.take(&event).await,
                    Err(refused) => self.compare(Some(&refused)).await,
                },
                task = tasks.recv() => match task {
                    Some(Task::Send(text)) => self.send(&text).await,
                    Some(Task::Add(did)) => {
                        let landed = self.persona.add(&[&did]).await;
                        self.landed(landed).await;
                    }
                    None => return,
                },
                _ = pace.tick(), if writes => self.write().await,
                Ok(()) = writing.changed() => {}
            }
        }
    }

    fn tell(&mut self) {
        let Self { persona, state, .. } = self;
        state.epoch =
            persona.convo_id.as_ref().map(|_| (persona.epoch().unwrap(), persona.epoch_authenticator().unwrap()));
        state.last_seq = persona.last_seq;
        state.entries = persona.entries().map(|(seq, id)| (seq, id.to_owned())).collect();
        state.connections = self.events.connections();
        if let Some(name) = persona.incarnation()
            && state.incarnations.last().is_none_or(|last| last != name)
        {
            state.incarnations.push(name.to_owned());
        }
        self.publish.send_replace(state.clone());
    }

    async fn take(&mut self, event: &Event) {
        let before = self.persona.incarnation().map(str::to_owned);
        match self.persona.take_event(event).await {
            Ok(texts) => self.state.texts.extend(texts),
            Err(PersonaError::Lost { .. }) => return self.compare(None).await,
            Err(other) => panic!("{other}"),
        }
        let is_new = before.is_some_and(|before| self.persona.incarnation() != Some(&before));
        if is_new && self.persona.convo_id.is_some() {
            self.compare(None).await;
        }
    }

    async fn write(&mut self) {
        self.writes += 1;
        if self.writes.is_multiple_of(COMMITS) {
            let landed = self.persona.rotate().await;
            self.landed(landed).await;
        } else {
            self.send(&format!("{} says {}", self.persona.did(), self.writes)).await;
        }
    }

    async fn send(&mut self, text: &str) {
        match self.persona.send(text).await {
            Ok(sent) => self.state.sent.push(sent),
            Err(error) => self.refused(error).await,
        }
    }

    async fn landed(&mut self, landed: Result<Landed, PersonaError>) {
        match landed {
            Ok(landed) => self.state.landed.push(landed),
            Err(error) => self.refused(error).await,
        }
    }

    async fn refused(&mut self, error: PersonaError) {
        match (&error, error.reply()) {
            (PersonaError::Lost { .. }, _) => self.compare(None).await,
            (_, Some(reply)) if reply.body["recovery"] == "rejoin" => self.compare(Some(reply)).await,
            _ => panic!("{error}"),
        }
    }

    /// Compares with the server, after it said so, if it did.
    async fn compare(&mut self, refused: Option<&Reply>) {
        let start = Instant::now();
        let found = loop {
            if self.persona.convo_id.is_none() {
                break Found::WithoutMembership;
            }
            match self.persona.compare().await {
                Ok(found) => break found,
                // Another client's external commit came first, again and again, or the server is away.
                Err(error) if start.elapsed() < PATIENCE => println!("{} tries again: {error}", self.persona.did()),
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(PACE).await;
        };
        if found == Found::WithoutMembership {
            self.renew_key_packages().await;
        }
        if let Some(reply) = refused {
            let recovery = reply.body["recovery"].as_str().unwrap_or_default().to_owned();
            let error = reply.error().unwrap_or_default().to_owned();
            self.state.told.push(Told { error, recovery, found });
        }
    }

    /// Withdraws key packages that were used in the lost time, and that the server would issue again.
    async fn renew_key_packages(&mut self) {
        let stock = self.persona.sync_key_packages(&[], &[]).await.unwrap();
        self.persona.sync_key_packages(&[], &stock.orphaned).await.unwrap();
        self.persona.publish_key_packages(1).await.unwrap();
    }
}
