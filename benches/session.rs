//! Contenders that stand side by side, and the rounds that they go through together.

use std::{ops::Range, path::Path, time::Duration};

use anyhow::{Result, bail};
use aquifer_integration::peers::PeerError;

use crate::{
    contender::{Contender, Stage, Standing},
    memory::Resident,
    metric::{Figures, Metric},
    scenario::{Round, Scenario, record_memory},
    topology::Topology,
};

/// How the reason of a contender begins that is not to be had on this machine.
const SKIPPED: &str = "skipped: ";

/// Who takes part, and how.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The contenders, in the order of the table.
    pub contenders: Vec<Contender>,
    /// Worker threads of each HAProxy and Envoy; without it as many as there are cores.
    pub threads: Option<usize>,
    /// Whether one that cannot be had here is a failure.
    pub no_skip: bool,
}

/// Contenders in place; they end with it.
#[derive(Debug)]
pub struct Session<'a> {
    standing: Vec<Standing>,
    versions: Vec<(Contender, Option<String>)>,
    absent: Absent,
    // After those who use its nodes.
    _stage: Stage<'a>,
}

/// Who does not take part, or not any more, and why.
#[derive(Clone, Debug, Default)]
pub struct Absent {
    /// In the order in which they left.
    pub reasons: Vec<(Contender, String)>,
    no_skip: bool,
}

impl Absent {
    /// Whether all of them are merely not to be had on this machine.
    pub fn is_excused(&self) -> bool {
        self.reasons.iter().all(|(_, reason)| reason.starts_with(SKIPPED))
    }

    fn add(&mut self, contender: Contender, error: &anyhow::Error) {
        let missing = error.downcast_ref::<PeerError>().is_some_and(PeerError::is_unavailable);
        let kind = if missing && !self.no_skip { SKIPPED } else { "failed: " };
        let reason = format!("{kind}{error:#}");
        eprintln!("{contender} {reason}");
        self.reasons.push((contender, reason));
    }
}

impl<'a> Session<'a> {
    /// Starts the contenders on `topology`, with configuration and logs in `dir`; who cannot be started is absent.
    ///
    /// # Errors
    /// Where nobody is left.
    pub fn start(topology: &'a Topology, dir: &'a Path, entry: &Entry) -> Result<Self> {
        let mut stage = Stage::new(topology, dir, entry.threads);
        let mut absent = Absent { reasons: Vec::new(), no_skip: entry.no_skip };
        let mut standing = Vec::new();
        for &contender in &entry.contenders {
            match stage.start(contender) {
                Ok(ready) => standing.push(ready),
                Err(error) => absent.add(contender, &error),
            }
        }
        if standing.is_empty() {
            bail!("no contender is left to measure");
        }
        let versions = standing.iter().map(|each| (each.contender, each.version.clone())).collect();
        Ok(Self { standing, versions, absent, _stage: stage })
    }

    /// Those that were started, with their versions.
    pub fn versions(&self) -> &[(Contender, Option<String>)] {
        &self.versions
    }

    /// Those that stand now.
    pub(crate) fn standing(&self) -> &[Standing] {
        &self.standing
    }

    /// Who is absent.
    pub fn absent(&self) -> &Absent {
        &self.absent
    }

    /// Adds what the proxies hold in memory, once all of them are at rest: what is given back then is not counted.
    ///
    /// # Errors
    /// Without root, or where a proxy has ended.
    pub fn memory(&self, metric: Metric, figures: &mut Figures) -> Result<()> {
        let all: Vec<u32> = self.standing.iter().flat_map(|each| &each.processes).copied().collect();
        if !all.is_empty() {
            Resident::settled(&all)?;
        }
        self.standing.iter().try_for_each(|each| record_memory(each, metric, figures))
    }

    /// Rounds of scenarios with these numbers, under which the figures are kept.
    ///
    /// # Errors
    /// Where nobody is left.
    pub fn rounds(
        &mut self,
        numbers: Range<usize>,
        scenarios: &[Scenario],
        time: Duration,
        figures: &mut Figures,
    ) -> Result<()> {
        let last = numbers.end;
        for number in numbers {
            eprintln!("round {} of {last}", number + 1);
            self.round(number, scenarios, time, figures);
            if self.standing.is_empty() {
                bail!("no contender is left to measure");
            }
        }
        Ok(())
    }

    /// Every scenario by every contender, a different one first each time; those that fail leave.
    fn round(&mut self, number: usize, scenarios: &[Scenario], time: Duration, figures: &mut Figures) {
        let mut rounds: Vec<Round> = self.standing.iter().map(|_| Round::default()).collect();
        let mut failed = Vec::new();
        for &scenario in scenarios {
            for index in turns(number, self.standing.len()) {
                if failed.contains(&index) {
                    continue;
                }
                match scenario.run(&self.standing[index], time) {
                    Ok(measured) => rounds[index].add(measured),
                    Err(error) => {
                        self.absent.add(self.standing[index].contender, &error);
                        failed.push(index);
                    }
                }
            }
        }
        let direct = self
            .standing
            .iter()
            .zip(&rounds)
            .find(|(each, _)| each.contender == Contender::Direct)
            .and_then(|(_, round)| round.median());
        for (each, round) in self.standing.iter().zip(&rounds) {
            round.record(number, each, direct, figures);
        }
        let mut index = 0;
        self.standing.retain(|_| {
            index += 1;
            !failed.contains(&(index - 1))
        });
    }
}

/// All of `count`, beginning with another one in each round.
pub(crate) fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (turn + round) % count)
}
