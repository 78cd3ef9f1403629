//! The cost of more replicas: the same load at one, two and four servers in front of one database, as behind a load
//! balancer.
//!
//! All replicas run on this machine, so more of them cannot be faster once its processors are busy. The goal is that
//! they are hardly slower. Messages are spread over many conversations, or all go to one; members race to commit in
//! one; and one load has streams open at every replica, so each message is also delivered to many.
//!
//! A transaction costs about the same for one message as for many. With 64 connections, four replicas with 16 requests
//! each pay four times for what one replica does at once. With more connections they do not, so messages are measured
//! with both.

use catbird_bench_report::results::Sample;
use tokio::task::JoinHandle;

use super::clients::Sender;
use super::{events, race};
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Load};
use crate::support::plan::{Plan, SERVERS, Turn};
use crate::support::seed::Convos;
use crate::support::server::Server;

pub const NAME: &str = "fleet";

const REPLICAS: [usize; 3] = [1, 2, 4];
/// Connections over all replicas.
const CONNECTIONS: u32 = 64;
const QUICK_CONNECTIONS: u32 = 8;
/// Connections over all replicas at which enough requests wait at each of four to fill most of a transaction. The queue
/// of one conversation holds 256, including those left from the load before.
const MANY_CONNECTIONS: u32 = 192;
/// Members of each conversation: one for each connection, so that no caller's requests wait for each other.
const MEMBERS: u32 = MANY_CONNECTIONS;
const CONVOS: u32 = 1_000;
/// Streams of the conversation over all replicas, in the load that has streams.
const LISTENERS: usize = 100;

/// The work at the replicas.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Spread,
    Hot,
    Race,
    Heard,
}

const WORK: [Work; 4] = [Work::Spread, Work::Hot, Work::Race, Work::Heard];

impl Work {
    /// The variants, by index of [`REPLICAS`].
    const fn variants(self) -> [&'static str; 3] {
        match self {
            Work::Spread => ["spread, 1 replica", "spread, 2 replicas", "spread, 4 replicas"],
            Work::Hot => ["hot, 1 replica", "hot, 2 replicas", "hot, 4 replicas"],
            Work::Race => ["race, 1 replica", "race, 2 replicas", "race, 4 replicas"],
            Work::Heard => ["heard by 100, 1 replica", "heard by 100, 2 replicas", "heard by 100, 4 replicas"],
        }
    }

    /// Numbers of connections.
    const fn connections(self, quick: bool) -> &'static [u32] {
        match self {
            // An unoptimised server on a busy machine would not answer more of them in time.
            _ if quick => &[QUICK_CONNECTIONS],
            Work::Spread | Work::Hot => &[CONNECTIONS, MANY_CONNECTIONS],
            Work::Race | Work::Heard => &[CONNECTIONS],
        }
    }

    const fn unit(self) -> &'static str {
        if matches!(self, Work::Race) { "commits/s" } else { "messages/s" }
    }
}

pub fn time(plan: &Plan) -> std::time::Duration {
    let loads: usize = WORK.iter().map(|work| work.connections(plan.quick).len()).sum();
    (plan.timing.warm_up + plan.timing.measured) * plan.rounds * (SERVERS.len() * loads * replicas(plan).len()) as u32
}

/// Numbers of replicas.
fn replicas(plan: &Plan) -> &'static [usize] {
    if plan.quick { &REPLICAS[..2] } else { &REPLICAS }
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let spread = bench.stage.seed(bench.plan.size(CONVOS, 10), 10).await?;
    let hot = bench.stage.seed(1, MEMBERS).await?;
    let races = bench.plan.rounds as usize * REPLICAS.len();
    let races = bench.stage.seed(races as u32, MEMBERS).await?;
    for who in SERVERS {
        let mut servers = Vec::new();
        for n in 0..*replicas(&bench.plan).last().unwrap_or(&1) {
            servers.push(bench.stage.another_server(who, &format!("{NAME}_{n}"), &[]).await?);
        }
        let mut fresh = 0..races.len();
        for round in 1..=bench.plan.rounds {
            let quick = bench.plan.quick;
            for (work, connections) in
                WORK.into_iter().flat_map(|work| work.connections(quick).iter().map(move |n| (work, *n)))
            {
                for (number, variant) in replicas(&bench.plan).iter().zip(work.variants()) {
                    let servers = &servers[..*number];
                    let (clients, fates) = match work {
                        Work::Spread => (Sender::several(connections, &spread), None),
                        Work::Hot | Work::Heard => (Sender::several(connections, &hot), None),
                        Work::Race => {
                            let convo = fresh.next().ok_or("a conversation for each race")?;
                            let (racers, fates) = race::racers(connections, &races, convo);
                            (racers, Some(fates))
                        }
                    };
                    let listeners = if work == Work::Heard { listen(servers, &hot).await? } else { Vec::new() };
                    let sample = sample(bench, servers, clients).await;
                    listeners.iter().for_each(JoinHandle::abort);
                    let mut sample = sample?;
                    if let Some(fates) = fates {
                        fates.note(&mut sample, bench.plan.timing.measured);
                    }
                    let figure = Figure { scenario: NAME, variant, unit: work.unit(), note: "" };
                    bench.record(&figure, Turn { round, connections, who }, sample)?;
                }
            }
        }
    }
    Ok(())
}

async fn sample(bench: &mut Bench, servers: &[Server], clients: Vec<Box<dyn Client>>) -> Result<Sample> {
    let servers = servers.iter().map(|server| server.address).collect();
    let [sample] = bench.loads([Load { servers, clients }]).await?;
    Ok(sample)
}

/// Opens streams of members of the conversation at all replicas, and reads all events.
async fn listen(servers: &[Server], convos: &Convos) -> Result<Vec<JoinHandle<()>>> {
    let mut listeners = Vec::new();
    for n in 0..LISTENERS {
        let member = &convos[0].members[n % convos[0].members.len()];
        let who = events::sign_in(&servers[n % servers.len()], member)?;
        let mut stream = events::open(&who, None).await?;
        listeners.push(tokio::spawn(async move { while let Ok(Some(_)) = stream.next().await {} }));
    }
    Ok(listeners)
}
