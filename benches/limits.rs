//! What Aquifer may cost in absolute figures: memory of a node, of a connection and of a workload, and time of connections and
//! changes. Each is measured here and printed beside its goal.

mod changes;
mod first;
mod held;
mod nodes;
mod told;

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::{
    contender::Contender, machine::Machine, report::facts, session::Entry, table::aligned, topology::Topology,
};

pub use told::dispatch;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Idle connections, where descriptors allow as many.
    pub connections: usize,
    /// Pods on each node, each of which calls each of the other node's once.
    pub pods: usize,
    /// Workloads in the largest source, at most 100,000.
    pub workloads: u32,
    /// Changes that are waited for.
    pub changes: usize,
    /// Rounds of later connections.
    pub rounds: usize,
    /// Time of each measurement of traffic.
    pub time: Duration,
}

impl Sizes {
    /// What the goals speak of.
    pub fn full(rounds: usize, time: Duration) -> Self {
        Self { connections: 10_000, pods: 8, workloads: 100_000, changes: 15, rounds, time }
    }

    /// Every step once, with next to nothing.
    pub fn smoke(time: Duration) -> Self {
        Self { connections: 100, pods: 2, workloads: 600, changes: 1, rounds: 1, time }
    }
}

/// A figure with its goal.
#[derive(Clone, Debug)]
struct Row {
    what: String,
    /// Most that it may be; `None` where it stands for comparison.
    goal: Option<f64>,
    value: f64,
    unit: &'static str,
    digits: usize,
}

impl Row {
    fn goal(what: impl Into<String>, goal: f64, value: f64, unit: &'static str, digits: usize) -> Self {
        Self { what: what.into(), goal: Some(goal), value, unit, digits }
    }

    fn beside(what: impl Into<String>, value: f64, unit: &'static str, digits: usize) -> Self {
        Self { what: what.into(), goal: None, value, unit, digits }
    }

    fn cells(&self) -> Vec<String> {
        let word = match self.goal {
            None => "",
            Some(goal) if self.value <= goal => "met",
            Some(_) => "**not met**",
        };
        vec![
            format!("{}, {}", self.what, self.unit),
            self.goal.map_or_else(|| "–".to_owned(), |goal| format!("≤ {goal}")),
            format!("{:.*}", self.digits, self.value),
            word.to_owned(),
        ]
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Limits {
    machine: Machine,
    versions: Vec<(Contender, Option<String>)>,
    absent: Vec<(Contender, String)>,
    rows: Vec<Row>,
}

impl Limits {
    /// Measures all limits; takes some minutes. Nodes are started anew for each kind, so that none inherits memory or tunnels.
    ///
    /// # Errors
    /// Where nobody can be measured, and where traffic was not carried.
    pub fn measure(machine: &Machine, dir: &Path, entry: &Entry, sizes: Sizes) -> Result<Self> {
        let topology = Topology::build()?;
        let mut found =
            Self { machine: machine.clone(), versions: Vec::new(), absent: Vec::new(), rows: Vec::new() };
        nodes::measure(&mut found, &topology, dir, entry, sizes)?;
        held::measure(&mut found, &topology, dir, entry, sizes)?;
        first::measure(&mut found, &dir.join("first"), sizes)?;
        told::measure(&mut found, dir, sizes)?;
        changes::measure(&mut found, &topology, dir, sizes)?;
        Ok(found)
    }

    /// The table, and the facts that belong to it, in Markdown.
    pub fn markdown(&self) -> String {
        let heads = ["limit", "goal", "measured", ""].map(str::to_owned).to_vec();
        let rows: Vec<_> = [heads].into_iter().chain(self.rows.iter().map(Row::cells)).collect();
        format!("{}\n{}", aligned(&rows), facts(&self.machine, &self.versions, &self.absent))
    }

    fn add(&mut self, row: Row) {
        eprintln!("limits: {}", row.cells().join(" | "));
        self.rows.push(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_met_up_to_its_goal() {
        let word = |value| Row::goal("memory", 10.0, value, "MB", 1).cells()[3].clone();
        assert_eq!([word(10.0), word(9.9), word(10.01)], ["met", "met", "**not met**"]);
        let beside = Row::beside("memory", 10.0, "MB", 1).cells();
        assert_eq!(beside, ["memory, MB", "–", "10.0", ""]);
    }
}
