//! Figures by size, as a table and as a chart.

use std::collections::BTreeMap;

use crate::{
    contender::Contender,
    metric::median,
    svg::{Axis, Line, Marker, Panel, Scale, Style, figure},
    table::{aligned, grouped},
};

/// What grows or shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Quantity {
    Requests,
    Median,
    Tail,
    CpuPerRequest,
    Connections,
    Resident,
    Load,
}

impl Quantity {
    /// What is measured as connections grow.
    pub(super) const OF_CONNECTIONS: [Self; 4] =
        [Self::Requests, Self::Median, Self::Tail, Self::CpuPerRequest];
    /// What is measured as workloads grow.
    pub(super) const OF_WORKLOADS: [Self; 4] =
        [Self::Requests, Self::Connections, Self::Resident, Self::Load];

    /// Name, and unit.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Requests => ("requests", "requests/s"),
            Self::Median => ("p50 of a request", "µs"),
            Self::Tail => ("p99 of a request", "µs"),
            Self::CpuPerRequest => ("proxy CPU per request", "µs"),
            Self::Connections => ("new connections", "connections/s"),
            Self::Resident => ("resident memory per node", "MB"),
            Self::Load => ("time from start to ready", "s"),
        }
    }

    /// Digits after the point.
    fn digits(self) -> usize {
        match self {
            Self::CpuPerRequest | Self::Resident => 1,
            Self::Load => 2,
            _ => 0,
        }
    }

    /// Latencies and loading grow by orders of magnitude, the others are read better from zero.
    fn scale(self, values: impl IntoIterator<Item = f64>) -> Scale {
        match self {
            Self::Median | Self::Tail | Self::Load => Scale::decades(values),
            _ => Scale::linear(values),
        }
    }
}

/// A colour and a marker for each contender, the same in all charts.
fn style(contender: Contender) -> Style {
    let (colour, marker) = match contender {
        Contender::Direct => ("#8c8f94", Marker::Triangle),
        Contender::Haproxy => ("#a371f7", Marker::Circle),
        Contender::Envoy => ("#d9730d", Marker::Square),
        Contender::Aquifer => ("#2f81f7", Marker::Circle),
        Contender::AquiferOneNode => ("#2da44e", Marker::Diamond),
    };
    Style { name: contender.title(), colour, marker }
}

/// Figures of all rounds, by what they are, whose, and at which size.
#[derive(Clone, Debug, Default)]
pub(super) struct Points(BTreeMap<(Quantity, Contender), BTreeMap<u64, Vec<f64>>>);

impl Points {
    pub(super) fn add(&mut self, quantity: Quantity, contender: Contender, size: u64, value: f64) {
        self.0.entry((quantity, contender)).or_default().entry(size).or_default().push(value);
    }

    /// The medians of the rounds, by size.
    fn medians(&self, quantity: Quantity, contender: Contender) -> BTreeMap<u64, f64> {
        let sizes = self.0.get(&(quantity, contender)).into_iter().flatten();
        sizes.filter_map(|(&size, values)| Some((size, median(values)?))).collect()
    }

    fn sizes(&self) -> Vec<u64> {
        let mut sizes: Vec<u64> = self.0.values().flat_map(|sizes| sizes.keys().copied()).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// A row for each quantity and contender, a column for each size.
    pub(super) fn table(&self, what: &str, quantities: &[Quantity]) -> String {
        let sizes = self.sizes();
        let mut rows = vec![vec![what.to_owned(), String::new()]];
        rows[0].extend(sizes.iter().map(|&size| grouped(size as f64, 0)));
        for &quantity in quantities {
            for contender in Contender::ALL {
                let medians = self.medians(quantity, contender);
                if medians.is_empty() {
                    continue;
                }
                let (name, unit) = quantity.words();
                let cell = |size| {
                    medians
                        .get(size)
                        .map_or_else(|| "–".to_owned(), |&value| grouped(value, quantity.digits()))
                };
                let mut row = vec![format!("{name}, {unit}"), contender.title().to_owned()];
                row.extend(sizes.iter().map(cell));
                rows.push(row);
            }
        }
        aligned(&rows)
    }

    /// A panel for each quantity, a line for each contender.
    pub(super) fn chart(&self, title: &str, what: &str, quantities: &[Quantity]) -> String {
        let sizes: Vec<f64> = self.sizes().into_iter().map(|size| size as f64).collect();
        let panel = |&quantity: &Quantity| {
            let lines: Vec<Line> = Contender::ALL
                .into_iter()
                .map(|contender| Line {
                    style: style(contender),
                    points: self
                        .medians(quantity, contender)
                        .into_iter()
                        .map(|(size, value)| (size as f64, value))
                        .collect(),
                })
                .filter(|line| !line.points.is_empty())
                .collect();
            let (name, unit) = quantity.words();
            let values = lines.iter().flat_map(|line| line.points.iter().map(|&(_, value)| value));
            let scale = quantity.scale(values);
            let suffix = if matches!(scale, Scale::Log { .. }) { " (logarithmic)" } else { "" };
            Panel {
                title: name.to_owned(),
                x: Axis { label: format!("{what} (logarithmic)"), scale: Scale::log(&sizes) },
                y: Axis { label: format!("{unit}{suffix}"), scale },
                lines,
            }
        };
        figure(title, &quantities.iter().map(panel).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Points {
        let mut points = Points::default();
        for value in [10.0, 30.0, 20.0] {
            points.add(Quantity::Requests, Contender::Aquifer, 8, value);
        }
        points.add(Quantity::Requests, Contender::Aquifer, 512, 40_000.0);
        points.add(Quantity::Requests, Contender::Envoy, 512, 30_000.0);
        points
    }

    #[test]
    fn a_table_has_medians_and_says_what_is_missing() {
        let table = points().table("connections", &Quantity::OF_CONNECTIONS);
        let rows: Vec<Vec<&str>> =
            table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(rows[0][3..5], ["8", "512"]);
        assert_eq!(rows[2][1..5], ["requests, requests/s", "Envoy HBONE pair", "–", "30,000"]);
        assert_eq!(rows[3][2..5], ["Aquifer", "20", "40,000"]);
        assert_eq!(rows.len(), 4, "{table}");
    }

    #[test]
    fn a_chart_has_all_panels_even_without_figures() {
        let svg = points().chart("growth", "connections", &Quantity::OF_CONNECTIONS);
        assert_eq!(svg.matches("<g ").count(), 4);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
