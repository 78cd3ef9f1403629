//! A conversation whose members follow, send and commit, and that ends in agreement with the database.

use std::fmt;
use std::time::Duration;

use catbird_client::persona::{Found, Persona};
use catbird_client::random_did;
use catbird_client::xrpc::Xrpc;
use catbird_server::check;
use reqwest::Url;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::members::{Member, State, Task};

/// Number of commits that a disaster loses: more than members come back, so that no epoch of the lost time exists again when a
/// client proves that it was there.
const LOST: usize = 10;
/// Maximum time until all agree.
const PATIENCE: Duration = Duration::from_secs(60);

/// The conversation.
pub struct Conversation {
    pub id: String,
    /// Three who follow all the while and write.
    pub members: Vec<Member>,
    /// Only writes, so no stream tells her anything.
    erin: Persona,
    /// Follows, and is added in the time that is lost.
    dave: Member,
    writing: watch::Sender<bool>,
}

/// Acknowledged writes that a disaster has lost.
pub struct Loss {
    pub messages: usize,
    pub commits: usize,
    pub acknowledged: usize,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages and {} commits of {} acknowledged writes are lost",
            self.messages, self.commits, self.acknowledged
        )
    }
}

impl Conversation {
    /// Begins a conversation at these servers, whose members write from now on. `sign_in` makes the connection of a DID.
    pub async fn begin(servers: &[Url], sign_in: impl Fn(&str, &str) -> Xrpc) -> Self {
        let mut personas = Vec::new();
        for n in 0..5 {
            let mut persona = Persona::new(sign_in(servers[n % servers.len()].as_str(), &random_did()));
            persona.insists = true;
            persona.shares_group_info = true;
            persona.publish_key_packages(1).await.unwrap();
            personas.push(persona);
        }
        let dave = personas.pop().unwrap();
        personas[0].create(random_did().as_bytes(), "a conversation that outlives its database").await.unwrap();
        let convo = personas[0].convo().unwrap().to_owned();
        let dids: Vec<String> = personas[1..].iter().map(|persona| persona.did().to_owned()).collect();
        personas[0].add(&dids.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
        for persona in &mut personas[1..] {
            persona.join(&convo).await.unwrap();
        }
        // Each knows the commit that led to its epoch, and the server has a GroupInfo of it.
        personas[0].rotate().await.unwrap();
        for persona in &mut personas {
            persona.catch_up().await.unwrap();
        }
        let (writing, is_writing) = watch::channel(true);
        let erin = personas.pop().unwrap();
        let mut members = Vec::new();
        for (n, persona) in personas.into_iter().enumerate() {
            members.push(Member::start(persona, servers.to_vec(), n, is_writing.clone()).await);
        }
        let dave = Member::start(dave, servers.to_vec(), 0, watch::channel(false).1).await;
        Self { id: convo, members, erin, dave, writing }
    }

    /// Waits until each member has this many more commits acknowledged.
    pub async fn progress(&self, commits: usize) {
        for member in &self.members {
            let goal = member.state.borrow().landed.len() + commits;
            member.until("commits", |state| state.landed.len() >= goal).await;
        }
    }

    /// Lets the members do what will be lost: commits, messages, and the addition of another member, which all of them read. Then
    /// they write nothing new.
    pub async fn do_what_is_lost(&mut self) {
        self.members[0].task(Task::Add(self.dave.did.clone())).await;
        self.dave.until("its Welcome", |state| state.epoch.is_some()).await;
        self.progress(LOST.div_ceil(self.members.len())).await;
        self.rest().await;
        self.erin.catch_up().await.unwrap();
        let epoch = self.erin.epoch().unwrap();
        for member in &self.members {
            member.until("the lost epochs", |state| state.epoch.as_ref().is_some_and(|(at, _)| *at >= epoch)).await;
        }
    }

    /// Lets the members write nothing new, and waits until all that they wrote is answered. They go on following.
    async fn rest(&self) {
        self.writing.send_replace(false);
        for member in &self.members {
            member.until("its last answer", |state| state.is_idle).await;
        }
    }

    /// A client in a lost epoch that proves it is told so, and comes back. No stream tells it anything.
    pub async fn a_silent_client_is_told(&mut self) {
        let refused = self.erin.send("from an epoch that is lost").await.unwrap_err();
        let reply = refused.reply().unwrap_or_else(|| panic!("{refused}"));
        assert_eq!((reply.status, reply.error()), (409, Some("ServerRolledBack")), "{reply}");
        assert_eq!(reply.body["recovery"], "rejoin", "{reply}");
        assert_eq!(self.erin.compare().await.unwrap(), Found::WithoutEpoch);
    }

    /// A client that was added in the lost time is told so, and is added again.
    pub async fn a_lost_addition_is_made_again(&mut self, error: &str) {
        let told = |state: &State| state.told.iter().any(|told| told.found == Found::WithoutMembership);
        let state = self.dave.until("word of the lost addition", told).await;
        assert_eq!((&*state.told[0].error, &*state.told[0].recovery), (error, "startAnew"), "{state:?}");
        self.members[0].task(Task::Add(self.dave.did.clone())).await;
        self.dave.until("another Welcome", |state| state.epoch.is_some()).await;
    }

    /// Each member that follows is told by its stream, and comes back into the group.
    pub async fn members_are_told(&self, error: &str) {
        for member in &self.members {
            let state =
                member.until("word of what is lost", |state| state.told.iter().any(|told| told.error == error)).await;
            let lost_epoch = |found| found == Found::WithoutEpoch;
            assert!(state.told.iter().any(|told| lost_epoch(told.found)), "{:?}", state.told);
            for told in &state.told {
                let recovery = if told.error == error { "startAnew" } else { "rejoin" };
                assert_eq!(told.recovery, recovery, "{told:?}");
                assert!([error, "ServerRolledBack"].contains(&&*told.error), "{told:?}");
            }
        }
    }

    /// The members write again, stop, and agree with each other and with the database, entry by entry. Returns what acknowledged writes
    /// the database lacks.
    pub async fn all_agree(&mut self, db: &Client) -> Loss {
        self.writing.send_replace(true);
        self.progress(1).await;
        self.rest().await;
        let all: Vec<&Member> =
            self.members.iter().chain([&self.dave]).filter(|one| one.state.borrow().epoch.is_some()).collect();
        self.erin.catch_up().await.unwrap();
        let position = "select current_epoch, last_seq from conversations where id = $1";
        let start = Instant::now();
        loop {
            let row = db.query_one(position, &[&self.id]).await.unwrap();
            let at = (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned());
            let states: Vec<State> = all.iter().map(|member| member.state.borrow().clone()).collect();
            let here = |state: &State| state.epoch.as_ref().map(|(epoch, _)| (*epoch, state.last_seq)) == Some(at);
            if states.iter().all(|state| here(state) && state.epoch == states[0].epoch) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "no agreement at {at:?}: {states:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.erin.catch_up().await.unwrap();
        let authenticator = self.erin.epoch_authenticator().unwrap();
        let log = "select seq, id from messages where convo_id = $1 order by seq";
        let log: Vec<(u64, String)> = db
            .query(log, &[&self.id])
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get::<_, i64>(0).cast_unsigned(), row.get(1)))
            .collect();
        for member in &all {
            let state = member.state.borrow().clone();
            assert_eq!(state.epoch.unwrap().1, authenticator, "{} is in another group", member.did);
            let first = state.entries.first().map_or(u64::MAX, |(seq, _)| *seq);
            let rest: Vec<_> = log.iter().filter(|(seq, _)| *seq >= first).cloned().collect();
            assert_eq!(state.entries, rest, "{} holds other entries than the database", member.did);
        }
        // What each says now, all the others can read.
        for (n, member) in all.iter().enumerate() {
            member.task(Task::Send(format!("{n} is here"))).await;
        }
        for (n, member) in all.iter().enumerate() {
            let others = (0..all.len()).filter(|other| *other != n).map(|other| format!("{other} is here"));
            for text in others {
                member.until("what the others say", |state| state.texts.contains(&text)).await;
            }
        }
        self.loss(db).await
    }

    /// Counts the acknowledged writes.
    pub fn acknowledged(&self) -> usize {
        let counts = self.members.iter().map(|member| member.state.borrow());
        counts.map(|state| state.sent.len() + state.landed.len()).sum()
    }

    /// Checks the invariants of the database.
    pub async fn is_sound(&self, url: &str) {
        let report = check::run(&url.parse().unwrap()).await.unwrap();
        assert!(report.is_clean(), "{report}");
    }

    async fn loss(&self, db: &Client) -> Loss {
        let mut loss = Loss { messages: 0, commits: 0, acknowledged: 0 };
        for member in &self.members {
            let state = member.state.borrow().clone();
            loss.acknowledged += state.sent.len() + state.landed.len();
            for sent in &state.sent {
                let there = "select count(*) from messages where id = $1 and seq = $2 and epoch = $3";
                let row =
                    db.query_one(there, &[&sent.message_id, &sent.seq.cast_signed(), &sent.epoch.cast_signed()]).await;
                loss.messages += usize::from(row.unwrap().get::<_, i64>(0) == 0);
            }
            for landed in &state.landed {
                let there = "select count(*) from messages
                              where convo_id = $1 and seq = $2 and epoch = $3 and sender_did = $4 and message_type = 'commit'";
                let (seq, epoch) = (landed.seq.cast_signed(), landed.epoch.cast_signed());
                let row = db.query_one(there, &[&self.id, &seq, &epoch, &member.did]).await;
                loss.commits += usize::from(row.unwrap().get::<_, i64>(0) == 0);
            }
        }
        loss
    }
}
