//! The goals, and how to compute each from a run. The report and docs/benchmarks.md quote this table.

use catbird_bench_report::results::{Kind, Run, Sample, Series, Target, Who, median};

use crate::scenarios::{flat, race};

/// Number of connections at which targets are measured by default.
const CONNECTIONS: u32 = 32;
/// Number of connections at which few requests share a transaction.
const FEW_CONNECTIONS: u32 = 8;
/// Number of clients that follow in the scenario `events`.
const FOLLOWERS: u32 = 8;
/// Number of connections of the scenario `flat`.
const FLAT_CONNECTIONS: u32 = 4;
/// Number of racers at which the fairness of a race is evaluated.
const RACERS: u32 = 64;
/// Number of connections of the neighbour in the scenario `neighbour`.
const NEIGHBOUR_CONNECTIONS: u32 = 50;
/// Numbers of connections over all replicas in the scenario `fleet`: with few requests for each transaction at four
/// replicas, and with enough requests for full transactions.
const FLEET_CONNECTIONS: u32 = 64;
const FLEET_MANY_CONNECTIONS: u32 = 192;

/// One series of a run, for the mode that is evaluated.
#[derive(Clone, Copy)]
struct Of {
    scenario: &'static str,
    variant: &'static str,
    /// `None` means the mode that is evaluated.
    who: Option<Who>,
    connections: u32,
}

const fn of(scenario: &'static str, variant: &'static str) -> Of {
    Of { scenario, variant, who: None, connections: CONNECTIONS }
}

impl Of {
    const fn yardstick(self) -> Self {
        Self { who: Some(Who::Yardstick), ..self }
    }

    const fn alone(self) -> Self {
        self.with(1)
    }

    const fn with(self, connections: u32) -> Self {
        Self { connections, ..self }
    }

    fn find<'a>(&self, run: &'a Run, judged: Who) -> Option<&'a Series> {
        run.series(self.scenario, self.variant, self.who.unwrap_or(judged), self.connections)
    }
}

/// A figure of the scenario's own; not a number if the sample has none.
fn extra(sample: &Sample, name: &str) -> f64 {
    sample.extra.get(name).copied().unwrap_or(f64::NAN)
}

/// A goal. `bound` is required; `aim` is what would be better, where it is another figure.
struct Promise {
    name: &'static str,
    of: Of,
    /// `None` means that the figure itself is evaluated.
    to: Option<Of>,
    figure: fn(&Sample) -> f64,
    unit: &'static str,
    kind: Kind,
    bound: f64,
    aim: f64,
}

const RATIO: &str = "×";

const fn at_least(name: &'static str, of: Of, to: Of, bound: f64, aim: f64) -> Promise {
    Promise { name, of, to: Some(to), figure: |sample| sample.rate, unit: RATIO, kind: Kind::AtLeast, bound, aim }
}

/// A load with single use of tokens against the same without it.
const fn single_use(name: &'static str, with: &'static str, without: &'static str) -> Promise {
    at_least(name, of("tokens", with), of("tokens", without), 0.95, 1.0)
}

/// PostgreSQL's time for a request where there is much, against the same where there is little. A fifth is what another
/// number of levels of an index makes.
const fn flat(name: &'static str, much: &'static str, little: &'static str) -> Promise {
    let (of, to) = (of("flat", much).with(FLAT_CONNECTIONS), of("flat", little).with(FLAT_CONNECTIONS));
    let figure = |sample: &Sample| extra(sample, flat::POSTGRES_US);
    Promise { name, of, to: Some(to), figure, unit: RATIO, kind: Kind::AtMost, bound: 1.2, aim: 1.05 }
}

/// A percentile of the latency of events without Redis, in milliseconds.
const fn notify(name: &'static str, figure: fn(&Sample) -> f64, bound: f64, aim: f64) -> Promise {
    let of = of("events", "NOTIFY").with(FOLLOWERS);
    Promise { name, of, to: None, figure, unit: " ms", kind: Kind::AtMost, bound, aim }
}

/// A figure of a race of 64.
const fn of_race(
    name: &'static str,
    figure: fn(&Sample) -> f64,
    unit: &'static str,
    kind: Kind,
    bound: f64,
    aim: f64,
) -> Promise {
    Promise { name, of: of("race", "one conversation").with(RACERS), to: None, figure, unit, kind, bound, aim }
}

const fn beside_neighbour(name: &'static str, variant: &'static str) -> Promise {
    let (of, to) =
        (of("neighbour", variant).with(NEIGHBOUR_CONNECTIONS), of("neighbour", "alone").with(NEIGHBOUR_CONNECTIONS));
    Promise {
        name,
        of,
        to: Some(to),
        figure: |sample| sample.p99_us,
        unit: RATIO,
        kind: Kind::AtMost,
        bound: 5.0,
        aim: 2.0,
    }
}

const fn of_fleet(name: &'static str, variant: &'static str, alone: &'static str, connections: u32) -> Promise {
    at_least(name, of("fleet", variant).with(connections), of("fleet", alone).with(connections), 0.9, 1.0)
}

const PROMISES: &[Promise] = &[
    at_least(
        "send to 1,000 conversations, against the yardstick",
        of("send", "spread"),
        of("send", "spread").yardstick(),
        1.0,
        1.5,
    ),
    at_least(
        "send to one hot conversation, against the yardstick",
        of("send", "hot"),
        of("send", "hot").yardstick(),
        3.0,
        5.0,
    ),
    at_least(
        "commits in 1,000 conversations, against the yardstick",
        of("commits", "spread"),
        of("commits", "spread").yardstick(),
        1.0,
        1.0,
    ),
    at_least(
        "send to 10,000 members, against 2 members",
        of("group_size", "10,000 members"),
        of("group_size", "2 members"),
        0.9,
        1.0,
    ),
    at_least(
        "last page of 1,000,000 messages, against 1,000",
        of("reads", "last page of 1,000,000"),
        of("reads", "last page of 1,000"),
        0.9,
        1.0,
    ),
    flat("PostgreSQL's time of a send to a long log, against one of 1,000", "send, long log", "send, short log"),
    flat(
        "PostgreSQL's time of the last page of a long log, against one of 1,000",
        "getMessages, long log",
        "getMessages, short log",
    ),
    flat(
        "PostgreSQL's time of getConvos with 10,000 unread in each, against 10",
        "getConvos, 10,000 unread in each of 50",
        "getConvos, 10 unread in each of 50",
    ),
    flat(
        "PostgreSQL's time of 50 of 10,000 conversations, against 50 of 50",
        "getConvos, 10 unread in each of 10,000",
        "getConvos, 10 unread in each of 50",
    ),
    flat(
        "PostgreSQL's time of a send in one of 10,000 conversations, against one",
        "send, sender of 10,000",
        "send, sender of 1 conversation",
    ),
    Promise {
        name: "PostgreSQL's time of a page of 50 of 10,000 conversations",
        of: of("flat", "getConvos, 10 unread in each of 10,000").with(FLAT_CONNECTIONS),
        to: None,
        figure: |sample| extra(sample, flat::POSTGRES_US) / 1_000.0,
        unit: " ms",
        kind: Kind::AtMost,
        bound: 1.5,
        aim: 1.0,
    },
    Promise {
        name: "p99 of 1,000 cold conversations beside a hot one, against without it",
        of: of("hot_and_cold", "cold beside hot"),
        to: Some(of("hot_and_cold", "cold alone")),
        figure: |sample| sample.p99_us,
        unit: RATIO,
        kind: Kind::AtMost,
        bound: 1.1,
        aim: 1.0,
    },
    Promise {
        name: "p99 of 1,000 cold conversations beside a hot one, against beside 1,000 others",
        of: of("hot_and_cold", "cold beside hot"),
        to: Some(of("hot_and_cold", "cold beside others")),
        figure: |sample| sample.p99_us,
        unit: RATIO,
        kind: Kind::AtMost,
        bound: 1.1,
        aim: 1.0,
    },
    Promise {
        name: "p50 of send on one connection, against the yardstick with one client",
        of: of("send", "spread").alone(),
        to: Some(of("send", "spread").alone().yardstick()),
        figure: |sample| sample.p50_us,
        unit: RATIO,
        kind: Kind::AtMost,
        bound: 1.5,
        aim: 1.0,
    },
    at_least(
        "send on 8 connections, against the yardstick with 8 clients",
        of("send", "spread").with(FEW_CONNECTIONS),
        of("send", "spread").with(FEW_CONNECTIONS).yardstick(),
        1.0,
        1.0,
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that lists 101 conversations of 999, against without it",
        "beside lists of conversations",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that creates conversations of 999, against without it",
        "beside new conversations",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that claims key packages of 100, against without it",
        "beside key packages",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that reads full pages, against without it",
        "beside full pages",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that reads full pages as slowly as allowed, against without it",
        "beside slow readers",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account whose bodies never arrive, against without it",
        "beside silent bodies",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that replays 3 MiB of events, against without it",
        "beside replays of events",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that opens and closes streams, against without it",
        "beside streams that come and go",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that sends Welcomes for 2.4 million unknown recipients, against without it",
        "beside Welcomes of nothing",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that sends 19 MiB that an error might quote, against without it",
        "beside bodies to be quoted",
    ),
    beside_neighbour(
        "p99 of honest callers beside an account that sends lists of 1.6 million DIDs, against without it",
        "beside endless lists of DIDs",
    ),
    beside_neighbour(
        "p99 of honest callers beside callers without a token who request readiness 2,000 times per second, against without it",
        "beside probes without a token",
    ),
    of_fleet(
        "send to 1,000 conversations over 64 connections at 2 replicas, against one",
        "spread, 2 replicas",
        "spread, 1 replica",
        FLEET_CONNECTIONS,
    ),
    of_fleet(
        "send to one hot conversation over 64 connections at 2 replicas, against one",
        "hot, 2 replicas",
        "hot, 1 replica",
        FLEET_CONNECTIONS,
    ),
    of_fleet(
        "send to one hot conversation over 64 connections at 4 replicas, against one",
        "hot, 4 replicas",
        "hot, 1 replica",
        FLEET_CONNECTIONS,
    ),
    of_fleet(
        "send to 1,000 conversations over 192 connections at 2 replicas, against one",
        "spread, 2 replicas",
        "spread, 1 replica",
        FLEET_MANY_CONNECTIONS,
    ),
    of_fleet(
        "send to one hot conversation over 192 connections at 2 replicas, against one",
        "hot, 2 replicas",
        "hot, 1 replica",
        FLEET_MANY_CONNECTIONS,
    ),
    of_fleet(
        "send to one hot conversation over 192 connections at 4 replicas, against one",
        "hot, 4 replicas",
        "hot, 1 replica",
        FLEET_MANY_CONNECTIONS,
    ),
    of_race("accepted commits in a race of 64", |sample| sample.rate, "/s", Kind::AtLeast, 150.0, 200.0),
    of_race(
        "the longest wait of a loser in a race of 64, in commits of others",
        |sample| extra(sample, race::LONGEST_WAIT),
        "",
        Kind::AtMost,
        64.0,
        64.0,
    ),
    of_race(
        "Jain's index of the accepted commits in a race of 64",
        |sample| extra(sample, race::JAIN),
        "",
        Kind::AtLeast,
        0.9,
        0.98,
    ),
    of_fleet("a race of 64 at 2 replicas, against one", "race, 2 replicas", "race, 1 replica", FLEET_CONNECTIONS),
    of_fleet("a race of 64 at 4 replicas, against one", "race, 4 replicas", "race, 1 replica", FLEET_CONNECTIONS),
    of_fleet(
        "send to a conversation with 100 streams at 2 replicas, against one",
        "heard by 100, 2 replicas",
        "heard by 100, 1 replica",
        FLEET_CONNECTIONS,
    ),
    single_use("send with single-use tokens, against reusable tokens", "send, jti in PostgreSQL", "send, jti off"),
    single_use(
        "send with single-use tokens, with Redis, against reusable tokens",
        "send, jti and Redis",
        "send, jti off, Redis",
    ),
    single_use(
        "getMessages with single-use tokens, against reusable tokens",
        "getMessages, jti in PostgreSQL",
        "getMessages, jti off",
    ),
    single_use(
        "getEpoch with single-use tokens, against reusable tokens",
        "getEpoch, jti in PostgreSQL",
        "getEpoch, jti off",
    ),
    notify("p50 of an event at another replica by NOTIFY", |sample| sample.p50_us / 1_000.0, 4.0, 3.0),
    notify("p99 of an event at another replica by NOTIFY", |sample| sample.p99_us / 1_000.0, 15.0, 10.0),
];

/// Returns every target whose series were measured, for each mode.
pub fn of_run(run: &Run) -> Vec<Target> {
    let judge = |promise: &Promise, who: Who| {
        let series = promise.of.find(run, who)?;
        let rounds = match promise.to {
            Some(to) => series.ratios(to.find(run, who)?, promise.figure),
            None => series.samples.iter().map(promise.figure).filter(|figure| figure.is_finite()).collect(),
        };
        let lowest = rounds.iter().copied().reduce(f64::min)?;
        let highest = rounds.iter().copied().reduce(f64::max)?;
        let (measured, rounds) = (median(rounds)?, (lowest, highest));
        let Promise { name, unit, kind, bound, aim, .. } = *promise;
        Some(Target { name: name.to_owned(), who, measured, rounds, unit: unit.to_owned(), bound, aim, kind })
    };
    PROMISES.iter().flat_map(|promise| super::plan::SERVERS.map(|who| judge(promise, who))).flatten().collect()
}
