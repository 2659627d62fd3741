//! How figures change as a mesh grows: with the connections that it carries, and with the workloads that its nodes know.

mod points;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{
    aquifer::{Nodes, Start},
    contender::{Contender, Standing},
    load::{Job, Limit},
    machine::Machine,
    memory::Resident,
    report::facts,
    scenario::{Carried, PARALLEL, micros},
    session::{Absent, Entry, Session, turns},
    table::{Section, folder},
    topology::Topology,
    world::World,
};

use points::{Points, Quantity};

/// Connections of requests while workloads grow: as in the table of contenders.
const CONNECTIONS: usize = 64;

/// What is gone through.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Numbers of connections, ascending.
    pub connections: Vec<usize>,
    /// Numbers of workloads in the nodes' source, ascending, at most 100,000.
    pub workloads: Vec<u32>,
    /// Rounds; in each, every contender goes through every size.
    pub rounds: usize,
    /// Time of each measurement.
    pub time: Duration,
}

impl Sizes {
    /// What the results are made of.
    pub fn full(rounds: usize, time: Duration) -> Self {
        Self { connections: vec![1, 8, 64, 512], workloads: vec![10, 1_000, 100_000], rounds, time }
    }

    /// Every step once, with next to nothing.
    pub fn smoke(time: Duration) -> Self {
        Self { connections: vec![1, 4], workloads: vec![10, 600], rounds: 1, time }
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Growth {
    machine: Machine,
    sizes: Sizes,
    versions: Vec<(Contender, Option<String>)>,
    absent: Absent,
    by_connections: Points,
    by_workloads: Points,
}

impl Growth {
    /// Goes through all sizes; takes some minutes, most of them to start nodes with many workloads.
    ///
    /// # Errors
    /// Where nobody can be measured, and where traffic was not carried.
    pub fn measure(machine: &Machine, dir: &Path, entry: &Entry, sizes: &Sizes) -> Result<Self> {
        let topology = Topology::build()?;
        let mut session = Session::start(&topology, dir, entry)?;
        let by_connections = by_connections(&mut session, sizes)?;
        let (versions, absent) = (session.versions().to_vec(), session.absent().clone());
        // Its nodes make room for those with other worlds.
        drop(session);
        let by_workloads = by_workloads(&topology, dir, sizes)?;
        Ok(Self {
            machine: machine.clone(),
            sizes: sizes.clone(),
            versions,
            absent,
            by_connections,
            by_workloads,
        })
    }

    /// Whether all who are not in it are merely not to be had on this machine.
    pub fn is_excused(&self) -> bool {
        self.absent.is_excused()
    }

    /// Two charts: by connections and by workloads, as SVG.
    pub fn charts(&self) -> [String; 2] {
        [
            self.by_connections.chart("Growth with connections", "connections", &Quantity::OF_CONNECTIONS),
            self.by_workloads.chart(
                "Growth with workloads",
                "workloads in the source",
                &Quantity::OF_WORKLOADS,
            ),
        ]
    }

    /// The tables, and the facts that belong to them, in Markdown.
    pub fn markdown(&self) -> String {
        let Sizes { rounds, time, .. } = &self.sizes;
        format!(
            "![Requests a second, latency and CPU time by connections](growth-connections.svg)\n\n{}\n\
             ![Requests, connections, memory and time to load by workloads](growth-workloads.svg)\n\n{}\n\
             Medians of {rounds} interleaved rounds of {} s a measurement.\n\n{}",
            self.by_connections.table("connections", &Quantity::OF_CONNECTIONS),
            self.by_workloads.table("workloads", &Quantity::OF_WORKLOADS),
            time.as_secs_f64(),
            facts(&self.machine, &self.versions, &self.absent.reasons),
        )
    }

    /// Puts the charts beside RESULTS.md, and the tables into it.
    ///
    /// # Errors
    /// Where a file cannot be written, or RESULTS.md has lost the lines between which the tables belong.
    pub fn write(&self) -> Result<()> {
        for (name, chart) in ["growth-connections.svg", "growth-workloads.svg"].iter().zip(self.charts()) {
            let file = folder().join(name);
            fs::write(&file, chart).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Section::GROWTH.write(&self.markdown())
    }
}

fn by_connections(session: &mut Session<'_>, sizes: &Sizes) -> Result<Points> {
    let mut points = Points::default();
    for round in 0..sizes.rounds {
        for &connections in &sizes.connections {
            eprintln!("growth, round {} of {}: {connections} connections", round + 1, sizes.rounds);
            for index in turns(round, session.standing().len()) {
                let standing = &session.standing()[index];
                let job = Job::Requests { connections, limit: Limit::of_time(sizes.time) };
                let carried = measure(standing, job)?;
                let mut add = |quantity, value| {
                    points.add(quantity, standing.contender, connections as u64, value);
                };
                add(Quantity::Requests, carried.outcome.rate());
                add(Quantity::Median, micros(carried.outcome.p50));
                add(Quantity::Tail, micros(carried.outcome.p99));
                if standing.contender.has_proxies() {
                    add(Quantity::CpuPerRequest, carried.cpu_per_operation());
                }
            }
        }
    }
    Ok(points)
}

fn by_workloads(topology: &Topology, dir: &Path, sizes: &Sizes) -> Result<Points> {
    let mut points = Points::default();
    for round in 0..sizes.rounds {
        for &workloads in &sizes.workloads {
            eprintln!("growth, round {} of {}: {workloads} workloads", round + 1, sizes.rounds);
            let start = Start { world: World { workloads }, ..Start::new(&topology.bed, dir) };
            let nodes = Nodes::start(start)?;
            let mut add = |quantity, contender, value| {
                points.add(quantity, contender, u64::from(workloads), value);
            };
            for load in nodes.loads() {
                add(Quantity::Load, Contender::Aquifer, load.as_secs_f64());
            }
            let processes = nodes.processes();
            let resident = Resident::settled(&processes)?.all as f64 / 1e6 / processes.len() as f64;
            add(Quantity::Resident, Contender::Aquifer, resident);
            let places = [Standing::across(topology, &nodes), Standing::one_node(topology, &nodes)];
            for index in turns(round, places.len()) {
                let standing = &places[index];
                let limit = Limit::of_time(sizes.time);
                let requests = measure(standing, Job::Requests { connections: CONNECTIONS, limit })?;
                let connections = measure(standing, Job::Connections { parallel: PARALLEL, limit })?;
                add(Quantity::Requests, standing.contender, requests.outcome.rate());
                add(Quantity::Connections, standing.contender, connections.outcome.rate());
            }
        }
    }
    Ok(points)
}

fn measure(standing: &Standing, job: Job) -> Result<Carried> {
    let name = format!("{}, {job:?}", standing.contender);
    Carried::measure(standing, job, None).context(name)
}
