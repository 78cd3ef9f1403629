//! The context of a scenario: the stage, the plan, and its figures.

use catbird_bench_report::results::{Sample, Series, Who};

use super::generator::{self, Client, Load, Timing};
use super::plan::{Plan, Turn};
use super::stage::Stage;
use super::yardstick::Script;
use super::{Failure, Result};

/// The context of one run, for all its scenarios.
pub struct Bench {
    pub plan: Plan,
    pub stage: Stage,
    pub series: Vec<Series>,
    /// Unexpected outcomes, one sentence each. A run with any has failed.
    pub failures: Vec<String>,
}

/// The subject of a figure.
#[derive(Debug, Clone, Copy)]
pub struct Figure<'a> {
    pub scenario: &'static str,
    pub variant: &'a str,
    /// The unit of its rate.
    pub unit: &'static str,
    /// A remark for the reader; empty for most.
    pub note: &'static str,
}

impl Bench {
    pub fn new(plan: Plan, stage: Stage) -> Self {
        Self { plan, stage, series: Vec::new(), failures: Vec::new() }
    }

    /// Runs one load on the server of a mode, with a connection for each client.
    pub async fn load(&mut self, who: Who, clients: Vec<Box<dyn Client>>) -> Result<Sample> {
        let server = self.stage.address(who)?;
        let [sample] = self.loads([Load { servers: vec![server], clients }]).await?;
        Ok(sample)
    }

    /// Runs several loads concurrently.
    pub async fn loads<const N: usize>(&mut self, loads: [Load; N]) -> Result<[Sample; N]> {
        self.loads_for(self.plan.timing, loads).await
    }

    /// Runs several loads concurrently, for another time than the plan's.
    pub async fn loads_for<const N: usize>(&mut self, timing: Timing, loads: [Load; N]) -> Result<[Sample; N]> {
        let outcomes = generator::run(Vec::from(loads), timing).await?;
        let mut samples = Vec::new();
        for outcome in outcomes {
            if let Some(said) = outcome.first_failure {
                let failed = outcome.sample.failed;
                self.fail(format!("{failed} requests got an unexpected reply, the first: {said}"))?;
            }
            if outcome.accepted_ever == 0 {
                self.fail("a load ended and nothing was ever accepted".to_owned())?;
            }
            samples.push(outcome.sample);
        }
        samples.try_into().map_err(|_| Failure::from("the generator gives an outcome for each load"))
    }

    /// Runs one load directly on PostgreSQL.
    pub async fn yardstick(&mut self, script: Script, connections: u32) -> Result<Sample> {
        let sample = self.stage.yardstick.run(script, connections, self.plan.timing.measured).await?;
        if sample.failed > 0 {
            self.fail(format!("{} of pgbench's transactions failed", sample.failed))?;
        }
        Ok(sample)
    }

    /// Stores a sample and prints it.
    pub fn record(&mut self, figure: &Figure<'_>, turn: Turn, sample: Sample) -> Result<()> {
        let Figure { scenario, variant, unit, note } = *figure;
        let Turn { round, connections, who } = turn;
        eprintln!(
            "{scenario:<12} {variant:<24} {:<9} {connections:>3} connections, round {round} of {}: {:>8.0} {unit}, p50 {:.2} ms",
            format!("{who:?}"),
            self.plan.rounds,
            sample.rate,
            sample.p50_us / 1000.0,
        );
        // On a busy machine, a quick run may accept nothing in the measured time. The load has already checked that
        // anything was accepted.
        if sample.rate <= 0.0 && !self.plan.quick {
            self.fail(format!(
                "{scenario} {variant} {who:?} with {connections} connections: nothing was accepted in time"
            ))?;
        }
        let sample = Sample { round, ..sample };
        let known = self.series.iter_mut().find(|known| {
            (known.scenario.as_str(), known.variant.as_str(), known.who, known.connections)
                == (scenario, variant, who, connections)
        });
        match known {
            Some(series) => series.samples.push(sample),
            None => self.series.push(Series {
                scenario: scenario.to_owned(),
                variant: variant.to_owned(),
                who,
                connections,
                unit: unit.to_owned(),
                samples: vec![sample],
                note: note.to_owned(),
            }),
        }
        Ok(())
    }

    /// Records a failure. It ends a quick run at once. A full run continues and fails after it has measured the rest.
    fn fail(&mut self, what: String) -> Result<()> {
        if self.plan.quick {
            return Err(what.into());
        }
        eprintln!("{what}");
        self.failures.push(what);
        Ok(())
    }
}
