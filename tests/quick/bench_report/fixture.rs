//! An invented run with everything that the report must show.

use std::collections::BTreeMap;

use catbird_bench_report::results::{Kind, Machine, Run, Sample, Series, Target, Who};

/// Rates of rounds at 32 connections with ratios 1.5, 1.0 and 1.2; the ratio of the medians would be 1.0.
pub const YARDSTICK: [f64; 3] = [1_000.0, 3_000.0, 2_000.0];
pub const ADVISORY: [f64; 3] = [1_500.0, 3_000.0, 2_400.0];

pub const CONFIGURATION: &str = "imaginary settings";

pub const CONNECTIONS: [u32; 4] = [1, 8, 32, 128];

/// Text that would break a page without escaping.
pub const HOSTILE: &str = "<script>alert('1 & 2')</script> \"quoted\"";

pub fn run() -> Run {
    let mut series = vec![series("generator", "calibration", Who::Generator, 32, &[90_000.0, 91_000.0, 92_000.0])];
    for connections in CONNECTIONS {
        let scale = f64::from(connections) / 32.0;
        let scaled = |rates: [f64; 3]| rates.map(|rate| rate * scale.powf(0.6));
        for variant in ["spread", "hot"] {
            series.push(self::series("send", variant, Who::Yardstick, connections, &scaled(YARDSTICK)));
            series.push(self::series("send", variant, Who::Advisory, connections, &scaled(ADVISORY)));
            series.push(self::series("send", variant, Who::Actors, connections, &scaled([1_400.0, 2_900.0, 2_100.0])));
        }
        for who in [Who::Advisory, Who::Actors] {
            series.push(self::series("group_size", "10,000 members", who, connections, &scaled([900.0, 950.0, 940.0])));
        }
    }
    for clients in [2, 8, 64] {
        let mut race = self::series("race", "one conversation", Who::Advisory, clients, &[500.0, 510.0, 490.0]);
        race.unit = "commits/s".to_owned();
        race.note = HOSTILE.to_owned();
        series.push(race);
    }
    for who in [Who::Advisory, Who::Actors] {
        let mut cost = self::series("cost", "spread", who, 32, &[1_000.0, 1_010.0, 990.0]);
        for (sample, wal) in cost.samples.iter_mut().zip([2_100.0, 2_200.0, 2_000.0]) {
            sample.extra.insert("wal_bytes_per_message".to_owned(), wal);
            sample.extra.insert("server_cpu_us_per_message".to_owned(), 81.5);
        }
        series.push(cost);
    }
    Run {
        machine: Machine {
            cores: 2,
            cpu_model: "An Imaginary CPU @ 3.00GHz".to_owned(),
            memory_bytes: 8 << 30,
            os: "Linux 6.1".to_owned(),
            postgres_version: "15.14".to_owned(),
            rustc: Some("rustc 1.93.0".to_owned()),
            commit: None,
            optimised: true,
        },
        command: "cargo bench -- --rounds 3".to_owned(),
        configuration: CONFIGURATION.to_owned(),
        started: "2000-01-01T00:00:00Z".to_owned(),
        series,
        targets: vec![
            target("send, 1,000 conversations, against the yardstick", 1.6, 1.0, 1.5, Kind::AtLeast),
            target("commits over 1,000 conversations, against the yardstick", 0.75, 0.5, 1.0, Kind::AtLeast),
            target("p99 of cold conversations beside a hot one, against without it", 1.8, 1.5, 1.1, Kind::AtMost),
            Target { unit: " ms".to_owned(), ..target("p50 of an event by NOTIFY", 3.25, 4.0, 3.0, Kind::AtMost) },
        ],
    }
}

pub fn series(scenario: &str, variant: &str, who: Who, connections: u32, rates: &[f64]) -> Series {
    let samples = rates.iter().zip(1..).map(|(rate, round)| sample(round, *rate, connections)).collect();
    Series {
        scenario: scenario.to_owned(),
        variant: variant.to_owned(),
        who,
        connections,
        unit: "messages/s".to_owned(),
        samples,
        note: String::new(),
    }
}

/// A closed loop's latency follows from its rate; higher percentiles are slower.
fn sample(round: u32, rate: f64, connections: u32) -> Sample {
    let mean_us = 1e6 * f64::from(connections) / rate;
    let at = |share: f64| mean_us * 0.6 * (1.0 - share).powf(-0.35);
    let latency = (0..400).map(|step| {
        let share = 1.0 - 0.975_f64.powi(step);
        let count = (6_000.0 * 0.025 * 0.975_f64.powi(step)).ceil();
        (at(share) as u64, count as u64)
    });
    Sample {
        round,
        rate,
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        max_us: at(0.999_9),
        latency: latency.collect(),
        client_cpu_share: 0.25,
        extra: BTreeMap::from([("client_cpu_us".to_owned(), 3.5)]),
        ..Sample::default()
    }
}

pub fn target(name: &str, measured: f64, bound: f64, aim: f64, kind: Kind) -> Target {
    let rounds = (measured - 0.1, measured + 0.1);
    Target { name: name.to_owned(), who: Who::Advisory, measured, rounds, unit: "×".to_owned(), bound, aim, kind }
}
