//! How the throughput of messages grows with the cores of the server, and with those of PostgreSQL.
//!
//! The processes are pinned: all to some of the cores; and the server, or PostgreSQL, to some, and everything else to the
//! others. The load generator needs processor time as well, so each load has the processor time per message of the server,
//! of PostgreSQL and of the generator (from `/proc`, over the whole load). What the server alone or PostgreSQL alone would
//! carry on one core follows from them. The yardstick is PostgreSQL with pgbench as the generator.
//!
//! At the end it prints what one PostgreSQL of 64 cores carries on paper ([`paper`]).

mod paper;

use std::time::Duration;

use catbird_bench_report::results::{Sample, Who};
use tokio_postgres::Client as Database;

use self::paper::Paper;
use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::Load;
use crate::support::meters::{Meters, postmaster, prepare};
use crate::support::plan::{Plan, Turn};
use crate::support::processes::{cores, ended_children_cpu, pin_family, pin_this_thread};
use crate::support::seed::Convos;
use crate::support::yardstick::Script;

pub const NAME: &str = "cores";

/// A mode is enough: both do the same per message, apart from the size of transactions.
const SERVER: Who = Who::Advisory;
const CONVOS: u32 = 1_000;
const QUICK_CONVOS: u32 = 20;
const MEMBERS: u32 = 10;
/// Connections of all loads, and of a further one whose transactions are full.
const CONNECTIONS: u32 = 32;
const MANY_CONNECTIONS: u32 = 128;

/// The cores of each kind of process.
#[derive(Debug, Clone)]
struct Pinning {
    variant: String,
    server: Vec<usize>,
    postgres: Vec<usize>,
    generator: Vec<usize>,
    /// Whether pgbench is measured too, which has no server.
    yardstick: bool,
}

/// The pinnings of a machine with these cores: with one core, two, four and so on for what is scaled.
fn pinnings(cores: &[usize]) -> Vec<Pinning> {
    let numbers = || std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n <= cores.len());
    let split = |count: usize| {
        let (some, others) = cores.split_at(count);
        (some.to_vec(), others.to_vec())
    };
    let mut pinnings = Vec::new();
    for (some, others) in numbers().map(split).filter(|(_, others)| !others.is_empty()) {
        let (n, rest) = (some.len(), others.len());
        pinnings.push(Pinning {
            variant: format!("server on {n}, others on {rest}"),
            server: some.clone(),
            postgres: others.clone(),
            generator: others.clone(),
            yardstick: false,
        });
        pinnings.push(Pinning {
            variant: format!("PostgreSQL on {n}, others on {rest}"),
            server: others.clone(),
            postgres: some,
            generator: others,
            yardstick: true,
        });
    }
    for (some, _) in numbers().map(split) {
        let variant = format!("all on {}", some.len());
        pinnings.push(Pinning {
            variant,
            server: some.clone(),
            postgres: some.clone(),
            generator: some,
            yardstick: true,
        });
    }
    pinnings
}

pub fn time(plan: &Plan) -> Duration {
    let pinnings = pinnings(&cores().unwrap_or_default());
    let loads = pinnings.iter().map(|pinning| 1 + u32::from(pinning.yardstick)).sum::<u32>() + 1;
    (plan.timing.warm_up + plan.timing.measured) * plan.rounds * loads
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.reset_yardstick().await?;
    let convos = bench.stage.seed(bench.plan.size(CONVOS, QUICK_CONVOS), MEMBERS).await?;
    let database = bench.stage.connect(SERVER).await?;
    let all = cores()?;
    for who in [SERVER, Who::Yardstick] {
        prepare(&bench.stage.connect(who).await?).await?;
    }
    let measured = pinned(bench, &all, &convos, &database).await;
    // Whatever comes after it has all cores again.
    pin_this_thread(&all)?;
    pin_family(postmaster(&database).await?, &all)?;
    measured?;
    for line in Paper::of(&bench.series, all.len(), &bench.plan)?.lines() {
        eprintln!("{NAME}: {line}");
    }
    Ok(())
}

async fn pinned(bench: &mut Bench, all: &[usize], convos: &Convos, database: &Database) -> Result<()> {
    let postmaster = postmaster(database).await?;
    let pinnings = pinnings(all);
    for round in 1..=bench.plan.rounds {
        for pinning in &pinnings {
            pin_family(postmaster, &pinning.postgres)?;
            let figure = Figure { scenario: NAME, variant: &pinning.variant, unit: "messages/s", note: "" };
            if pinning.yardstick {
                pin_this_thread(&pinning.generator)?;
                let sample = yardstick(bench).await?;
                bench.record(&figure, Turn { round, connections: CONNECTIONS, who: Who::Yardstick }, sample)?;
            }
            let is_last = pinning.server.len() == all.len();
            for connections in [CONNECTIONS, MANY_CONNECTIONS].into_iter().take(1 + usize::from(is_last)) {
                let sample = messages(bench, pinning, connections, convos, database).await?;
                bench.record(&figure, Turn { round, connections, who: SERVER }, sample)?;
            }
        }
    }
    Ok(())
}

async fn yardstick(bench: &mut Bench) -> Result<Sample> {
    let database = bench.stage.connect(Who::Yardstick).await?;
    let before = (Meters::read(&database, Who::Yardstick, None).await?, ended_children_cpu()?);
    let mut sample = bench.yardstick(Script::Send, CONNECTIONS).await?;
    Meters::read(&database, Who::Yardstick, None).await?.since(&before.0, &mut sample);
    let messages = sample.rate * bench.plan.timing.measured.as_secs_f64();
    let pgbench = ended_children_cpu()?.saturating_sub(before.1).as_secs_f64() * 1e6 / messages;
    note(&mut sample, pgbench);
    Ok(sample)
}

/// Measures messages to a new server, which counts its cores when it starts.
async fn messages(
    bench: &mut Bench,
    pinning: &Pinning,
    connections: u32,
    convos: &Convos,
    database: &Database,
) -> Result<Sample> {
    pin_this_thread(&pinning.server)?;
    let server = bench.stage.another_server(SERVER, NAME, &[]).await?;
    pin_this_thread(&pinning.generator)?;
    let before = Meters::read(database, SERVER, Some(server.pid())).await?;
    let clients = Sender::several(connections, convos);
    let [mut sample] = bench.loads([Load { servers: vec![server.address], clients }]).await?;
    Meters::read(database, SERVER, Some(server.pid())).await?.since(&before, &mut sample);
    let generator = sample.extra.get("client_cpu_us").copied().unwrap_or_default();
    note(&mut sample, generator);
    Ok(sample)
}

/// Adds the generator's time, and what follows from the times.
fn note(sample: &mut Sample, generator_us: f64) {
    let cost = Cost::of(sample);
    let total = cost.server_us + cost.postgres_us + generator_us;
    let mut add = |name: &str, figure: f64| {
        if figure.is_finite() && figure > 0.0 {
            sample.extra.insert(name.to_owned(), figure);
        }
    };
    add("generator_cpu_us_per_message", generator_us);
    add("messages_per_used_core_s", 1e6 / total);
    add("messages_per_core_of_the_server_s", 1e6 / cost.server_us);
    add("messages_per_core_of_postgresql_s", 1e6 / cost.postgres_us);
}

/// Processor time of a message, without the generator.
#[derive(Debug, Clone, Copy)]
struct Cost {
    server_us: f64,
    postgres_us: f64,
}

impl Cost {
    fn of(sample: &Sample) -> Self {
        let extra = |name: &str| sample.extra.get(name).copied().unwrap_or_default();
        Self { server_us: extra("server_cpu_us_per_message"), postgres_us: extra("postgres_cpu_us_per_message") }
    }
}
