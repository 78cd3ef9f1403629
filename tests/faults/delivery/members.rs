//! Real members that decrypt and commit, and learn everything from the stream.

use catbird_client::persona::{Events, Persona};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use catbird_testkit::proxy::Proxy;
use tokio::sync::{mpsc, oneshot};

use super::*;

const MODES: [Mode; 2] = [Mode::Advisory, Mode::Actors];

/// Task of a member.
enum Task {
    Send(String),
    Add(String),
    Remove(String),
    /// Cut its stream at any point.
    Cut,
    /// Report its state.
    Tell(oneshot::Sender<State>),
}

/// State of a member.
#[derive(Debug, Clone, Default)]
struct State {
    /// `None` if it is in no conversation.
    epoch: Option<(u64, Vec<u8>)>,
    last_seq: u64,
    /// Texts of the others, in order.
    texts: Vec<String>,
    gaps: u64,
    connections: u64,
}

/// A member with its own task, which handles one thing after the other: tasks and events.
struct Member {
    did: String,
    tasks: mpsc::Sender<Task>,
}

impl Member {
    async fn start(mut persona: Persona, proxies: &[Proxy], turn: usize) -> Self {
        let servers: Vec<reqwest::Url> = proxies.iter().map(|proxy| proxy.base().parse().unwrap()).collect();
        persona.insists = true;
        persona.xrpc = persona.xrpc.at(servers[turn % servers.len()].clone());
        let mut events = Events::follow(&persona.xrpc, servers, turn).await;
        let (tasks, mut told) = mpsc::channel(16);
        let did = persona.did().to_owned();
        tokio::spawn(async move {
            let mut texts = Vec::new();
            loop {
                tokio::select! {
                    event = events.next() => {
                        texts.extend(persona.take_event(&event.unwrap().unwrap()).await.unwrap());
                    }
                    task = told.recv() => match task {
                        Some(Task::Send(text)) => drop(persona.send(&text).await.unwrap()),
                        Some(Task::Add(did)) => drop(persona.add(&[&did]).await.unwrap()),
                        Some(Task::Remove(did)) => drop(persona.remove(&did).await.unwrap()),
                        Some(Task::Cut) => events.cut(),
                        Some(Task::Tell(to)) => {
                            let _ = to.send(state(&persona, &texts, &events));
                        }
                        None => return,
                    },
                }
            }
        });
        Self { did, tasks }
    }

    async fn task(&self, task: Task) {
        assert!(self.tasks.send(task).await.is_ok(), "{} has given up", self.did);
    }

    async fn state(&self) -> State {
        let (to, state) = oneshot::channel();
        self.task(Task::Tell(to)).await;
        state.await.expect("it says where it is")
    }
}

fn state(persona: &Persona, texts: &[String], events: &Events) -> State {
    let epoch = persona.convo_id.as_ref().map(|_| (persona.epoch().unwrap(), persona.epoch_authenticator().unwrap()));
    let (texts, connections) = (texts.to_vec(), events.connections());
    State { epoch, last_seq: persona.last_seq, texts, gaps: persona.gaps, connections }
}

/// Waits until all of these are in the same epoch, with the same history, at the end of the log.
async fn agreed(db: &tokio_postgres::Client, convo: &str, members: &[&Member]) {
    until("agreement", async || {
        let row = db.query_one("select current_epoch, last_seq from conversations where id = $1", &[&convo]).await;
        let row = row.unwrap();
        let (epoch, last): (i64, i64) = (row.get(0), row.get(1));
        let mut all = Vec::new();
        for member in members {
            all.push(member.state().await);
        }
        all.iter().all(|state| {
            state.last_seq == last.cast_unsigned()
                && state.epoch.as_ref().is_some_and(|(at, _)| *at == epoch.cast_unsigned())
                && state.epoch == all[0].epoch
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_members_stay_in_one_epoch_by_the_stream_alone_while_replicas_die() {
    let database = database().await;
    let db = database.connect().await;
    let mut fleet = Fleet::start(&MODES, &database.config, &database.url).await;
    let mut proxies = Vec::new();
    for replica in &fleet.replicas {
        proxies.push(Proxy::before(&replica.base).await);
    }
    let personas = fleet.conversation(4).await;
    let convo = personas[0].convo().unwrap().to_owned();
    let mut members = Vec::new();
    for (n, persona) in personas.into_iter().enumerate() {
        members.push(Member::start(persona, &proxies, n).await);
    }
    // Two more are added while they follow, and one of them is removed and added again.
    for n in 0..2 {
        members.push(Member::start(fleet.persona(n).await, &proxies, n).await);
    }
    let dids: Vec<String> = members.iter().map(|member| member.did.clone()).collect();
    let [alice, bob, carol, dave, erin, frank] = members.as_slice() else { unreachable!("six were started") };
    let old = [alice, bob, carol, dave];
    let all = [alice, bob, carol, dave, erin, frank];
    let say = async |round: usize| {
        for (n, member) in old.iter().enumerate() {
            member.task(Task::Send(format!("{n} in round {round}"))).await;
        }
    };
    let replace = async |fleet: &mut Fleet, n: usize| {
        fleet.replicas[n].kill();
        fleet.replicas[n] = Replica::start(MODES[n], &database.url, &[]).await;
        proxies[n].redirect(&fleet.replicas[n].base);
    };

    say(0).await;
    alice.task(Task::Add(dids[4].clone())).await;
    bob.task(Task::Add(dids[5].clone())).await;
    say(1).await;
    replace(&mut fleet, 0).await;
    carol.task(Task::Cut).await;
    say(2).await;
    agreed(&db, &convo, &all).await;

    say(3).await;
    alice.task(Task::Remove(dids[4].clone())).await;
    proxies.iter().for_each(Proxy::cut_all);
    say(4).await;
    replace(&mut fleet, 1).await;
    say(5).await;
    until("the removal", async || erin.state().await.epoch.is_none()).await;
    agreed(&db, &convo, &[alice, bob, carol, dave, frank]).await;
    // One key package is left for that.
    alice.task(Task::Add(dids[4].clone())).await;
    dave.task(Task::Cut).await;
    say(6).await;
    agreed(&db, &convo, &all).await;

    let mut connections = 0;
    for (reader, member) in old.iter().enumerate() {
        let state = member.state().await;
        for (writer, round) in (0..old.len()).flat_map(|writer| (0..7).map(move |round| (writer, round))) {
            let times = state.texts.iter().filter(|text| **text == format!("{writer} in round {round}")).count();
            assert_eq!(times, usize::from(writer != reader), "{writer} in round {round}, to {reader}");
        }
        assert_eq!(state.gaps, 0, "the stream left something out");
        connections += state.connections;
    }
    assert!(connections >= 2 * old.len() as u64, "no stream was cut: {connections}");
    fleet.check().await;
}
