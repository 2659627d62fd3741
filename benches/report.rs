//! What a run found, as a table for people and as JSON for programs.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    contender::Contender,
    machine::Machine,
    metric::{Figures, Metric},
};

/// Between these lines of RESULTS.md stands what a run writes; the text around them is written by people.
const BEGIN: &str = "<!-- data plane: written by the bench -->";
const END: &str = "<!-- data plane: end -->";

/// All that is known after a run.
#[derive(Debug)]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// Rounds.
    pub rounds: usize,
    /// Seconds of each scenario.
    pub seconds: f64,
    /// Those that took part, with their versions.
    pub contenders: Vec<(Contender, Option<String>)>,
    /// Those that could not, and why.
    pub absent: Vec<(Contender, String)>,
    /// The figures.
    pub figures: Figures,
}

impl Report {
    /// The table: a row a metric, a column a contender; medians, with the ratio to Envoy in parentheses.
    pub fn table(&self) -> String {
        let mut rows = vec![vec![String::new()]];
        rows[0].extend(self.contenders.iter().map(|(contender, _)| contender.title().to_owned()));
        for metric in Metric::ALL {
            let cells: Vec<String> =
                self.contenders.iter().map(|&(contender, _)| self.cell(metric, contender)).collect();
            if cells.iter().any(|cell| cell != "–") {
                rows.push([vec![metric.title().to_owned()], cells].concat());
            }
        }
        aligned(&rows)
    }

    fn cell(&self, metric: Metric, contender: Contender) -> String {
        let Some(median) = self.figures.median(metric, contender) else { return "–".into() };
        let value = grouped(median, metric.digits());
        match self.figures.ratio(metric, contender) {
            Some(ratio) if contender != Contender::Envoy => format!("{value} ({ratio:.2}×)"),
            _ => value,
        }
    }

    /// The table with the facts that belong to it, in Markdown.
    pub fn markdown(&self) -> String {
        let machine = &self.machine;
        let versions: Vec<String> = self
            .contenders
            .iter()
            .filter_map(|(contender, version)| Some(format!("{contender} {}", version.as_ref()?)))
            .collect();
        let mut text = format!(
            "{}\nMedians of {} interleaved rounds of {} s a scenario; in parentheses the ratio to the Envoy HBONE pair of the \
             same run.\n\n\
             - machine: {}, {} cores, {:.0} GB, Linux {}; {:.0} % busy with other work just before\n\
             - versions: {}\n\
             - date: {}\n",
            self.table(),
            self.rounds,
            self.seconds,
            machine.processor,
            machine.cores,
            machine.memory as f64 / 1e9,
            machine.kernel,
            machine.busy_before * 100.0,
            versions.join(", "),
            machine.date,
        );
        for (contender, reason) in &self.absent {
            let first = reason.lines().next().unwrap_or_default();
            text.push_str(&format!("- without {contender}: {first}\n"));
        }
        text
    }

    /// Everything, every round included.
    pub fn json(&self) -> Value {
        let figures: Vec<Value> = Metric::ALL
            .iter()
            .flat_map(|&metric| self.contenders.iter().map(move |&(contender, _)| (metric, contender)))
            .filter_map(|(metric, contender)| {
                let median = self.figures.median(metric, contender)?;
                Some(json!({
                    "metric": metric,
                    "title": metric.title(),
                    "more_is_better": metric.more_is_better(),
                    "contender": contender,
                    "median": median,
                    "ratio_to_envoy": self.figures.ratio(metric, contender),
                    "rounds": self.figures.rounds(metric, contender),
                }))
            })
            .collect();
        json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "versions": self.contenders.iter().map(|(contender, version)| json!([contender, version])).collect::<Vec<_>>(),
            "absent": self.absent,
            "figures": figures,
        })
    }

    /// Puts the table into a results file in place of the last one.
    ///
    /// # Errors
    /// Where the file has lost the lines between which the table belongs, or cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let replaced = replace(&text, &self.markdown());
        ensure!(
            replaced.is_some(),
            "{} lacks the lines `{BEGIN}` and `{END}`, between which the table belongs",
            file.display()
        );
        fs::write(file, replaced.unwrap_or_default())
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

fn replace(text: &str, between: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{between}\n{END}{after}"))
}

/// A Markdown table whose columns also line up for a person who reads it raw.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // The first column is words, the others are figures.
            let cell = if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            text.push_str(&format!("| {cell} "));
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(*width);
                text.push_str(&if column == 0 { format!("|-{line}-") } else { format!("|-{line}:") });
            }
            text.push_str("|\n");
        }
    }
    text
}

/// A number with commas between thousands.
fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let whole = text.find('.').unwrap_or(text.len());
    let start = usize::from(text.starts_with('-'));
    let mut grouped = text.clone();
    for position in (start + 1..whole).filter(|position| (whole - position).is_multiple_of(3)).rev() {
        grouped.insert(position, ',');
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(1_234_567.0, 0), "1,234,567");
        assert_eq!(grouped(-1234.56, 1), "-1,234.6");
        assert_eq!(grouped(999.0, 0), "999");
        assert_eq!(grouped(0.125, 2), "0.12");
    }

    #[test]
    fn only_the_part_between_the_lines_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace(&text, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(replace("nothing", "new"), None);
    }

    #[test]
    fn a_table_lines_up() {
        let rows = vec![vec![String::new(), "a".into()], vec!["µs".into(), "12".into()]];
        assert_eq!(aligned(&rows), "|     |   a |\n|-----|----:|\n| µs  |  12 |\n");
    }
}
