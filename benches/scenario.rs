//! What is measured: a job of the load, the proxies' CPU time around it, and the rows of the table that come of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{
    contender::Standing,
    load::{Client, Direction, Job, Limit, Outcome},
    memory::Resident,
    metric::{Figures, Metric},
    usage::Usage,
};

/// Connections at a time while connections are counted: enough to keep two cores busy, too few to overflow a queue.
pub(crate) const PARALLEL: usize = 16;
/// Connections of the small requests beside bulk streams.
const BESIDE: usize = 8;
/// Bound on the bytes of a bulk stream.
const MOST_BYTES: u64 = 1 << 40;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Requests on one connection.
    One,
    /// Requests on 64 connections.
    Many,
    /// New connections.
    Connections,
    /// Bulk bytes from the client, one stream.
    Up1,
    /// Bulk bytes to the client, one stream.
    Down1,
    /// Bulk bytes from the client, eight streams.
    Up8,
    /// Bulk bytes to the client, eight streams.
    Down8,
    /// Requests on eight connections while eight bulk streams run.
    Beside,
}

impl Scenario {
    /// All, in the order in which they are run.
    pub const ALL: [Self; 8] = [
        Self::One,
        Self::Many,
        Self::Connections,
        Self::Up1,
        Self::Down1,
        Self::Up8,
        Self::Down8,
        Self::Beside,
    ];

    /// Those from which these rows come, in the order in which they are run.
    pub fn that_measure(metrics: &[Metric]) -> Vec<Self> {
        let needs = |metric| match metric {
            Metric::Requests1 | Metric::Median1 | Metric::Added1 => &[Self::One][..],
            Metric::Requests64 | Metric::Median64 | Metric::Tail64 | Metric::CpuPerRequest => &[Self::Many],
            Metric::Connections | Metric::ConnectionMedian | Metric::CpuPerConnection => &[Self::Connections],
            Metric::Up1 => &[Self::Up1],
            Metric::Down1 => &[Self::Down1],
            Metric::Up8 => &[Self::Up8],
            Metric::Down8 => &[Self::Down8],
            Metric::CpuPerGigabyte => &[Self::Up1, Self::Down1, Self::Up8, Self::Down8],
            Metric::TailBesideBulk => &[Self::Beside],
            Metric::MemoryIdle | Metric::MemoryAfter => &[],
        };
        let needed = |scenario: &Self| metrics.iter().any(|&metric| needs(metric).contains(scenario));
        Self::ALL.into_iter().filter(needed).collect()
    }

    /// The job that is measured.
    fn job(self, time: Duration) -> Job {
        let limit = Limit::of_time(time);
        match self {
            Self::One => Job::Requests { connections: 1, limit },
            Self::Many => Job::Requests { connections: 64, limit },
            Self::Connections => Job::Connections { parallel: PARALLEL, limit },
            Self::Up1 => bulk(1, Direction::Up, time),
            Self::Down1 => bulk(1, Direction::Down, time),
            Self::Up8 => bulk(8, Direction::Up, time),
            Self::Down8 => bulk(8, Direction::Down, time),
            Self::Beside => Job::Requests { connections: BESIDE, limit },
        }
    }

    /// What runs beside it: it starts earlier and ends later.
    fn background(self, time: Duration) -> Option<Job> {
        (self == Self::Beside).then(|| bulk(8, Direction::Down, time * 2))
    }

    /// Runs it against a contender.
    ///
    /// # Errors
    /// With the load's words where traffic was not carried, and where a figure makes no sense.
    pub fn run(self, standing: &Standing, time: Duration) -> Result<Measured> {
        let carried = Carried::measure(standing, self.job(time), self.background(time))
            .with_context(|| format!("{}, scenario {self:?}", standing.contender))?;
        Ok(Measured { scenario: self, carried })
    }
}

/// What one job came to, and what it took.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) outcome: Outcome,
    /// CPU time of the proxies around the whole job, its warm-up included.
    pub(crate) cpu: Duration,
}

impl Carried {
    /// Runs a job against a contender, beside another one where there is one.
    ///
    /// # Errors
    /// With the load's words where traffic was not carried, and where a figure makes no sense.
    pub(crate) fn measure(standing: &Standing, job: Job, beside: Option<Job>) -> Result<Self> {
        let start = |job| Client::start(standing.client.ns(), standing.target, &job);
        let beside = beside.map(start).transpose()?;
        let has_latency = !matches!(job, Job::Bulk { .. });
        let before = Usage::of(&standing.processes);
        let outcome = start(job)?.finish();
        let after = Usage::of(&standing.processes);
        // Waited for in any case, else it would run into the next scenario.
        let beside = beside.map(Client::finish).transpose();
        let outcome = outcome?;
        beside.context("the load beside it")?;
        ensure!(
            after.processes >= standing.processes.len(),
            "a proxy has ended, its log is beside its configuration"
        );
        let carried = Self { outcome, cpu: after.cpu.saturating_sub(before.cpu) };
        carried.check(standing, has_latency)?;
        Ok(carried)
    }

    /// CPU time of the proxies for an operation, in µs.
    pub(crate) fn cpu_per_operation(&self) -> f64 {
        micros(self.cpu) / self.outcome.with_warm_up as f64
    }

    /// Figures that cannot be true mean that the bench is wrong, or that the traffic did not go through the proxies.
    fn check(&self, standing: &Standing, has_latency: bool) -> Result<()> {
        let Outcome { operations, bytes, p50, p99, failures, .. } = self.outcome;
        ensure!(operations > 0 && bytes > 0, "nothing was carried");
        ensure!(failures == 0, "{failures} connections failed beside {operations} good ones");
        if has_latency {
            ensure!(!p50.is_zero() && p50 <= p99, "p50 {p50:?} and p99 {p99:?} make no sense");
        }
        // Sixteen ticks of CPU time's clock: what is shorter may show as none.
        if standing.contender.has_proxies() && self.outcome.elapsed > Duration::from_millis(160) {
            ensure!(!self.cpu.is_zero(), "the proxies used no CPU time: the traffic went past them");
        }
        Ok(())
    }
}

fn bulk(streams: usize, direction: Direction, time: Duration) -> Job {
    Job::Bulk { streams, direction, limit: Limit { time, count: MOST_BYTES } }
}

/// What a scenario found.
#[derive(Clone, Debug)]
pub struct Measured {
    scenario: Scenario,
    carried: Carried,
}

/// The figures of one contender in one round.
#[derive(Debug, Default)]
pub struct Round {
    measured: Vec<Measured>,
}

impl Round {
    /// Adds what a scenario found.
    pub fn add(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// The median latency with one connection, if that was measured.
    pub fn median(&self) -> Option<Duration> {
        self.measured.iter().find(|m| m.scenario == Scenario::One).map(|m| m.carried.outcome.p50)
    }

    /// Adds this round's figures under its number; `direct` is the median latency of the direct path in the same round.
    pub fn record(
        &self,
        number: usize,
        standing: &Standing,
        direct: Option<Duration>,
        figures: &mut Figures,
    ) {
        let contender = standing.contender;
        let mut add = |metric, value| figures.add(metric, contender, number, value);
        let mut bulk = (Duration::ZERO, 0);
        for Measured { scenario, carried } in &self.measured {
            let per_operation = carried.cpu_per_operation();
            let Carried { outcome, cpu } = carried;
            match scenario {
                Scenario::One => {
                    add(Metric::Requests1, outcome.rate());
                    add(Metric::Median1, micros(outcome.p50));
                    if let Some(direct) = direct.filter(|_| contender.has_proxies()) {
                        add(Metric::Added1, micros(outcome.p50) - micros(direct));
                    }
                }
                Scenario::Many => {
                    add(Metric::Requests64, outcome.rate());
                    add(Metric::Median64, micros(outcome.p50));
                    add(Metric::Tail64, micros(outcome.p99));
                    if contender.has_proxies() {
                        add(Metric::CpuPerRequest, per_operation);
                    }
                }
                Scenario::Connections => {
                    add(Metric::Connections, outcome.rate());
                    add(Metric::ConnectionMedian, micros(outcome.p50));
                    if contender.has_proxies() {
                        add(Metric::CpuPerConnection, per_operation);
                    }
                }
                Scenario::Up1 => add(Metric::Up1, outcome.gigabits()),
                Scenario::Down1 => add(Metric::Down1, outcome.gigabits()),
                Scenario::Up8 => add(Metric::Up8, outcome.gigabits()),
                Scenario::Down8 => add(Metric::Down8, outcome.gigabits()),
                Scenario::Beside => add(Metric::TailBesideBulk, micros(outcome.p99)),
            }
            if matches!(scenario, Scenario::Up1 | Scenario::Down1 | Scenario::Up8 | Scenario::Down8) {
                bulk.0 += *cpu;
                bulk.1 += outcome.bytes;
            }
        }
        if contender.has_proxies() && bulk.1 > 0 {
            add(Metric::CpuPerGigabyte, bulk.0.as_secs_f64() * 1e9 / bulk.1 as f64);
        }
    }
}

/// Adds what the proxies of a contender hold in memory now, per node.
///
/// # Errors
/// Without root, or where a proxy has ended.
pub fn record_memory(standing: &Standing, metric: Metric, figures: &mut Figures) -> Result<()> {
    if standing.contender.has_proxies() {
        let resident = Resident::of_nodes(&standing.processes)
            .with_context(|| format!("resident memory of {}", standing.contender))?;
        let per_node = resident.all as f64 / 1e6 / standing.processes.len() as f64;
        figures.add(metric, standing.contender, 0, per_node);
    }
    Ok(())
}

/// A duration in µs.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_name_their_scenarios() {
        assert_eq!(Scenario::that_measure(&Metric::ALL), Scenario::ALL);
        let some = [Metric::CpuPerGigabyte, Metric::Added1, Metric::MemoryIdle];
        let scenarios = Scenario::that_measure(&some);
        assert_eq!(
            scenarios,
            [Scenario::One, Scenario::Up1, Scenario::Down1, Scenario::Up8, Scenario::Down8]
        );
    }
}
