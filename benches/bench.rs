//! `cargo bench` measures the server in front of PostgreSQL against PostgreSQL alone.
//!
//! Real server processes, one per mode, answer real HTTP on a durable PostgreSQL. They take turns with `pgbench`, which
//! runs the same transactions directly against that PostgreSQL. Every speed is quoted beside its ratio to `pgbench`
//! (the median over the rounds of the ratio within a round).
//!
//! ```text
//! cargo bench                            everything but `grown` and `retention`, which take long
//! cargo bench -- send race               scenarios whose name contains one of the words
//! cargo bench -- --rounds 5 --seconds 10 --out DIR
//! cargo test --bench catbird             each scenario for a moment, to see that it still works
//! ```
//!
//! `scenarios` has a file for each question, `support` what the scenarios use, `yardstick` the SQL and the scripts of
//! pgbench. The results go to `results.json` in the output directory; `report/results.rs` describes its fields.
//!
//! A run fails if a request got a reply that its scenario does not expect, if nothing was accepted, or if a database
//! does not pass `catbird-server check` afterwards.

mod scenarios;
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use catbird_bench_report as report;
use catbird_bench_report::results::Run;
use catbird_server::clock::Clock;
use clap::Parser;

use scenarios::Scenario;
use support::bench::Bench;
use support::plan::{Arguments, Plan};
use support::server::CONFIGURATION;
use support::stage::Stage;
use support::{Result, machine, targets};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The loads run on a thread of their own. This runtime only waits for them.
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(support::Failure::from)
        .and_then(|runtime| runtime.block_on(bench(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cargo bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(arguments: &Arguments) -> Result<()> {
    let plan = arguments.plan();
    let chosen = choose(&arguments.words, plan.quick);
    if chosen.is_empty() {
        let names: Vec<&str> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
        let none = format!("no scenario's name contains one of these words; the scenarios are {}", names.join(", "));
        // `cargo test` passes the same words to every target; they may name a test of another one.
        if plan.quick {
            eprintln!("{none}");
            return Ok(());
        }
        return Err(none.into());
    }
    announce(&plan, &chosen);
    let started = Clock::system().now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let begin = Instant::now();

    let mut bench = Bench::new(plan.clone(), Stage::set(&plan).await?);
    let measured = tokio::select! {
        measured = measure(&mut bench, &chosen) => measured,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    let Bench { stage, series, failures, .. } = bench;
    let postgres_version = stage.postgres_version().await;
    stage.clear().await?;
    if series.is_empty() {
        return measured;
    }

    let command = std::env::args().skip(1).filter(|argument| argument != "--bench").collect::<Vec<_>>().join(" ");
    let command = format!("cargo bench -- {command}").trim_end_matches([' ', '-']).to_owned();
    let machine = machine::describe(postgres_version?);
    let configuration = CONFIGURATION.to_owned();
    let mut run = Run { machine, command, configuration, started, series, targets: Vec::new() };
    run.targets = targets::of_run(&run);
    run.write_json(&plan.out.join("results.json"))?;
    report::print(&run)?;
    report::write_html(&run, &plan.out.join("report.html"))?;
    eprintln!("{} s; report.html and results.json are in {}", begin.elapsed().as_secs(), plan.out.display());
    // Reported after the results are written, so the completed measurements are kept.
    measured?;
    match failures.len() {
        0 => Ok(()),
        count => Err(format!("{count} loads failed:\n{}", failures.join("\n")).into()),
    }
}

fn choose(words: &[String], quick: bool) -> Vec<&'static Scenario> {
    let wanted = |scenario: &&Scenario| match words {
        [] => quick || !scenario.only_by_name,
        words => words.iter().any(|word| scenario.name.contains(word)),
    };
    scenarios::ALL.iter().filter(wanted).collect()
}

/// Prints the chosen scenarios and the time that their loads take.
fn announce(plan: &Plan, chosen: &[&Scenario]) {
    let names: Vec<&str> = chosen.iter().map(|scenario| scenario.name).collect();
    let time: Duration = chosen.iter().map(|scenario| (scenario.time)(plan)).sum();
    eprintln!(
        "{}: {} min {} s of load, and some time to start and to seed",
        names.join(", "),
        time.as_secs() / 60,
        time.as_secs() % 60
    );
}

async fn measure(bench: &mut Bench, chosen: &[&Scenario]) -> Result<()> {
    for scenario in chosen {
        (scenario.run)(bench).await.map_err(|failure| format!("{}: {failure}", scenario.name))?;
    }
    eprintln!("checking the invariants of the databases");
    bench.stage.check().await?;
    eprintln!("all invariants hold");
    Ok(())
}
