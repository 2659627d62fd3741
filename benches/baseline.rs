//! The gate: a run's ratios to Envoy beside those of a committed run, and which of them are lost.
//!
//! Ratios travel between machines where figures do not, and both sides of a ratio are from the same round. They are compared
//! by the median of the rounds' own ratios.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    contender::Contender,
    machine::Machine,
    metric::{Figures, Metric, median},
    table::aligned,
};

/// How much worse a row may be, as a part of the baseline's ratio.
pub const BEARABLE: f64 = 0.15;
/// Up to this loss a row is just past the limit: it is measured once more before it counts as lost.
const DOUBTFUL: f64 = 2.0 * BEARABLE;
/// A row whose rounds lie further apart than this part of their median is called noisy.
const NOISY: f64 = 0.15;
/// Ratios below this count as this: latency added to direct may be next to nothing, and twice nothing is no loss.
const SMALLEST: f64 = 0.05;

/// The ratios of a run, to be compared with those of later ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What it was measured on, and when.
    pub machine: Machine,
    /// The version of Aquifer, with its commit.
    pub version: String,
    /// Rounds.
    pub rounds: usize,
    /// Seconds of each scenario.
    pub seconds: f64,
    /// The ratios to Envoy, by contender and row.
    pub ratios: BTreeMap<Contender, BTreeMap<Metric, Ratio>>,
}

/// The ratio of a row to Envoy's, over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Median of the rounds.
    pub median: f64,
    /// Smallest of the rounds.
    pub least: f64,
    /// Largest of the rounds.
    pub most: f64,
}

impl Ratio {
    /// Of the rounds' ratios; `None` of none.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        Some(Self {
            median: median(ratios)?,
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// How far apart the rounds lie, as a part of the median.
    fn spread(self) -> f64 {
        (self.most - self.least) / self.median.abs().max(SMALLEST)
    }
}

/// Which contenders the gate is about.
pub const GUARDED: [Contender; 2] = [Contender::Aquifer, Contender::AquiferOneNode];

impl Baseline {
    /// The ratios of a run.
    ///
    /// # Errors
    /// Where the run has none: without Envoy or without Aquifer.
    pub fn of(
        machine: &Machine,
        version: &str,
        rounds: usize,
        seconds: f64,
        figures: &Figures,
    ) -> Result<Self> {
        let rows = |contender| {
            let row = |metric| Some((metric, Ratio::of(&figures.ratios(metric, contender))?));
            Metric::ALL.into_iter().filter_map(row).collect::<BTreeMap<_, _>>()
        };
        let ratios: BTreeMap<_, _> =
            GUARDED.into_iter().map(|each| (each, rows(each))).filter(|(_, rows)| !rows.is_empty()).collect();
        ensure!(!ratios.is_empty(), "the run has no ratio to Envoy: run it with envoy and aquifer");
        Ok(Self { machine: machine.clone(), version: version.to_owned(), rounds, seconds, ratios })
    }

    /// Reads one.
    ///
    /// # Errors
    /// Where the file is not there, or is no baseline.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| {
            format!("cannot read the baseline {}: write one with --write-baseline", file.display())
        })?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is no baseline: write it anew with --write-baseline", file.display())
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write the baseline {}", file.display()))
    }

    /// Compares a run with it, row by row.
    pub fn compare(&self, figures: &Figures) -> Comparison {
        let rows = self.ratios.iter().flat_map(|(&contender, rows)| {
            rows.iter().map(move |(&metric, &before)| Row {
                contender,
                metric,
                before,
                now: Ratio::of(&figures.ratios(metric, contender)),
                again: None,
            })
        });
        Comparison { rows: rows.collect() }
    }

    /// The facts of the run that it is from.
    pub fn origin(&self) -> String {
        let Self { machine, version, rounds, seconds, .. } = self;
        let Machine { processor, cores, kernel, date, .. } = machine;
        format!(
            "baseline: Aquifer {version} of {date}, {rounds} rounds of {seconds} s, on {processor}, {cores} cores, Linux {kernel}"
        )
    }
}

/// A row of the baseline beside the same row of a run.
#[derive(Clone, Copy, Debug)]
struct Row {
    contender: Contender,
    metric: Metric,
    before: Ratio,
    /// `None` where the run did not measure it.
    now: Option<Ratio>,
    /// The second measurement of a row that was in doubt.
    again: Option<Ratio>,
}

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Held,
    /// Just past the limit, and measured only once.
    Doubtful,
    Lost,
}

impl Row {
    fn loss(&self, now: Ratio) -> f64 {
        let [before, now] = [self.before.median, now.median].map(|ratio| ratio.max(SMALLEST));
        if self.metric.more_is_better() { 1.0 - now / before } else { now / before - 1.0 }
    }

    /// Memory is as it is: measured once in a run, and no noise to wait for.
    fn is_of_memory(&self) -> bool {
        matches!(self.metric, Metric::MemoryIdle | Metric::MemoryAfter)
    }

    fn standing(&self) -> Standing {
        match (self.now, self.again) {
            (_, Some(again)) if self.loss(again) > BEARABLE => Standing::Lost,
            (_, Some(_)) => Standing::Held,
            (None, None) => Standing::Lost,
            (Some(now), None) => match self.loss(now) {
                loss if loss <= BEARABLE => Standing::Held,
                loss if loss <= DOUBTFUL && !self.is_of_memory() => Standing::Doubtful,
                _ => Standing::Lost,
            },
        }
    }

    fn cells(&self) -> Vec<String> {
        let range = |ratio: Ratio| format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.least, ratio.most);
        let loss = |ratio: Ratio| match self.loss(ratio) * 100.0 {
            loss if loss > 0.0 => format!("{loss:.0} % worse"),
            loss => format!("{:.0} % better", -loss),
        };
        let latest = self.again.or(self.now);
        let noisy = self.now.is_some_and(|now| now.spread() > NOISY) || self.before.spread() > NOISY;
        let word = match (self.standing(), self.again) {
            (Standing::Held, None) => "held",
            (Standing::Held, Some(_)) => "held when measured again",
            (Standing::Doubtful, _) => "just past the limit",
            (Standing::Lost, Some(_)) => "LOST, also when measured again",
            (Standing::Lost, None) if self.now.is_none() => "LOST: was not measured",
            (Standing::Lost, None) => "LOST",
        };
        vec![
            self.metric.title().to_owned(),
            self.contender.title().to_owned(),
            range(self.before),
            self.now.map_or_else(|| "–".to_owned(), range),
            self.again.map_or_else(String::new, range),
            latest.map_or_else(|| "–".to_owned(), loss),
            word.to_owned(),
            if noisy { "noisy" } else { "" }.to_owned(),
        ]
    }
}

/// A run beside the baseline.
#[derive(Clone, Debug)]
pub struct Comparison {
    rows: Vec<Row>,
}

impl Comparison {
    /// The rows that are to be measured once more.
    pub fn doubtful(&self) -> Vec<Metric> {
        let mut metrics: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row.standing() == Standing::Doubtful)
            .map(|row| row.metric)
            .collect();
        metrics.sort_unstable();
        metrics.dedup();
        metrics
    }

    /// Takes up the second measurement of the rows that are in doubt.
    pub fn measured_again(&mut self, figures: &Figures) {
        for row in self.rows.iter_mut().filter(|row| row.standing() == Standing::Doubtful) {
            row.again = Ratio::of(&figures.ratios(row.metric, row.contender));
        }
    }

    /// How many rows are lost; those that are still in doubt are.
    pub fn lost(&self) -> usize {
        self.rows.iter().filter(|row| row.standing() != Standing::Held).count()
    }

    /// All rows as a table, the lost ones first, with what the words in it mean.
    pub fn table(&self) -> String {
        let heads = ["ratio to Envoy", "", "baseline", "this run", "again", "change", "", "rounds"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        let (held, lost): (Vec<&Row>, Vec<&Row>) =
            self.rows.iter().partition(|row| row.standing() == Standing::Held);
        rows.extend(lost.into_iter().chain(held).map(Row::cells));
        format!(
            "{}\nMedians of the rounds' ratios, with the smallest and largest round. A row is lost where it is more than {:.0} % \
             worse; one that is past that by no more than the same again is measured a second time, and that counts. Noisy: the \
             rounds of this run or of the baseline lie more than {:.0} % of their median apart, so that the row says less.\n",
            aligned(&rows),
            BEARABLE * 100.0,
            NOISY * 100.0,
        )
    }
}

#[cfg(test)]
mod tests;
