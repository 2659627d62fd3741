//! The rows of the table: what each figure is called, its unit, and which way is better.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contender::Contender;

/// One figure of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is described by its title, which the table prints")]
pub enum Metric {
    Requests1,
    Median1,
    Added1,
    Requests64,
    Median64,
    Tail64,
    CpuPerRequest,
    Connections,
    ConnectionMedian,
    CpuPerConnection,
    Up1,
    Down1,
    Up8,
    Down8,
    CpuPerGigabyte,
    TailBesideBulk,
    MemoryIdle,
    MemoryAfter,
}

impl Metric {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 18] = [
        Self::Requests1,
        Self::Median1,
        Self::Added1,
        Self::Requests64,
        Self::Median64,
        Self::Tail64,
        Self::CpuPerRequest,
        Self::Connections,
        Self::ConnectionMedian,
        Self::CpuPerConnection,
        Self::Up1,
        Self::Down1,
        Self::Up8,
        Self::Down8,
        Self::CpuPerGigabyte,
        Self::TailBesideBulk,
        Self::MemoryIdle,
        Self::MemoryAfter,
    ];

    /// What the table calls it, unit included.
    pub fn title(self) -> &'static str {
        match self {
            Self::Requests1 => "requests/s, 1 connection",
            Self::Median1 => "p50, 1 connection, µs",
            Self::Added1 => "p50 added to direct, µs",
            Self::Requests64 => "requests/s, 64 connections",
            Self::Median64 => "p50, 64 connections, µs",
            Self::Tail64 => "p99, 64 connections, µs",
            Self::CpuPerRequest => "proxy CPU per request, µs",
            Self::Connections => "new connections/s",
            Self::ConnectionMedian => "p50 of a connection, µs",
            Self::CpuPerConnection => "proxy CPU per connection, µs",
            Self::Up1 => "bulk up, 1 stream, Gb/s",
            Self::Down1 => "bulk down, 1 stream, Gb/s",
            Self::Up8 => "bulk up, 8 streams, Gb/s",
            Self::Down8 => "bulk down, 8 streams, Gb/s",
            Self::CpuPerGigabyte => "proxy CPU per GB, s",
            Self::TailBesideBulk => "p99 beside 8 bulk streams, µs",
            Self::MemoryIdle => "resident MB per node, idle",
            Self::MemoryAfter => "resident MB per node, after",
        }
    }

    /// Digits after the point.
    pub fn digits(self) -> usize {
        match self {
            Self::Up1 | Self::Down1 | Self::Up8 | Self::Down8 | Self::CpuPerGigabyte => 2,
            Self::CpuPerRequest | Self::MemoryIdle | Self::MemoryAfter => 1,
            _ => 0,
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::Requests1
                | Self::Requests64
                | Self::Connections
                | Self::Up1
                | Self::Down1
                | Self::Up8
                | Self::Down8
        )
    }
}

/// All figures of a run: one per metric, contender and round.
#[derive(Clone, Debug, Default)]
pub struct Figures(BTreeMap<(Metric, Contender), BTreeMap<usize, f64>>);

impl Figures {
    /// Adds the figure of a round; what is measured once in a run belongs to round 0.
    pub fn add(&mut self, metric: Metric, contender: Contender, round: usize, value: f64) {
        self.0.entry((metric, contender)).or_default().insert(round, value);
    }

    /// The figures of all rounds.
    pub fn rounds(&self, metric: Metric, contender: Contender) -> Vec<f64> {
        self.of(metric, contender).map(|(_, value)| value).collect()
    }

    /// The median of the rounds.
    pub fn median(&self, metric: Metric, contender: Contender) -> Option<f64> {
        median(&self.rounds(metric, contender))
    }

    /// The median over Envoy's.
    pub fn ratio(&self, metric: Metric, contender: Contender) -> Option<f64> {
        let yardstick = self.median(metric, Contender::Envoy)?;
        let value = self.median(metric, contender)?;
        (yardstick > 0.0).then(|| value / yardstick)
    }

    /// The figure of each round over Envoy's of the same round, for the rounds that have both.
    pub fn ratios(&self, metric: Metric, contender: Contender) -> Vec<f64> {
        let yardstick: BTreeMap<usize, f64> = self.of(metric, Contender::Envoy).collect();
        let ratio = |(round, value)| {
            let yardstick = yardstick.get(&round).copied().filter(|&yardstick| yardstick > 0.0)?;
            Some(value / yardstick)
        };
        self.of(metric, contender).filter_map(ratio).collect()
    }

    fn of(&self, metric: Metric, contender: Contender) -> impl Iterator<Item = (usize, f64)> {
        self.0.get(&(metric, contender)).into_iter().flatten().map(|(&round, &value)| (round, value))
    }
}

/// The middle of the values, or what is between the two in the middle; `None` of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let mut figures = Figures::default();
        for (round, value) in [30.0, 10.0, 20.0].into_iter().enumerate() {
            figures.add(Metric::Requests1, Contender::Envoy, round, value);
        }
        for (round, value) in [10.0, 50.0].into_iter().enumerate() {
            figures.add(Metric::Requests1, Contender::Direct, round, value);
        }
        assert_eq!(figures.median(Metric::Requests1, Contender::Envoy), Some(20.0));
        assert_eq!(figures.ratio(Metric::Requests1, Contender::Direct), Some(1.5));
        assert_eq!(figures.ratio(Metric::Requests1, Contender::Haproxy), None);
    }

    #[test]
    fn a_rounds_ratio_is_to_envoy_in_the_same_round() {
        let mut figures = Figures::default();
        // Envoy failed in round 1 and had nothing to divide by in round 2.
        for (round, value) in [(0, 10.0), (2, 0.0), (3, 20.0)] {
            figures.add(Metric::Tail64, Contender::Envoy, round, value);
        }
        for (round, value) in [(0, 5.0), (1, 7.0), (2, 7.0), (3, 30.0)] {
            figures.add(Metric::Tail64, Contender::Aquifer, round, value);
        }
        assert_eq!(figures.ratios(Metric::Tail64, Contender::Aquifer), [0.5, 1.5]);
        assert!(figures.ratios(Metric::Tail64, Contender::Direct).is_empty());
    }

    #[test]
    fn all_are_listed_once() {
        assert!(Metric::ALL.is_sorted_by(|a, b| a < b));
    }
}
