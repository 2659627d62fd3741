//! What a run found, as a table for people and as JSON for programs.

use serde_json::{Value, json};

use crate::{
    contender::Contender,
    goals,
    machine::Machine,
    metric::{Figures, Metric},
    table::{aligned, grouped},
};

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

    /// The table and the goals with the facts that belong to them, in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}\nMedians of {} interleaved rounds of {} s a scenario; in parentheses the ratio to the Envoy HBONE pair of the \
             same run.\n\n",
            self.table(),
            self.rounds,
            self.seconds,
        );
        if let Some(goals) = goals::table(&self.figures) {
            text.push_str(&format!(
                "The goals, as Aquifer's figure over Envoy's of the same round. A goal is met where every round meets it.\n\n{goals}\n"
            ));
        }
        text.push_str(&facts(&self.machine, &self.contenders, &self.absent));
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
                    "ratio_to_envoy_of_each_round": self.figures.ratios(metric, contender),
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
}

/// What belongs to every table: the machine, the versions, and who is not in it.
pub(crate) fn facts(
    machine: &Machine,
    contenders: &[(Contender, Option<String>)],
    absent: &[(Contender, String)],
) -> String {
    let versions: Vec<String> = contenders
        .iter()
        .filter_map(|(contender, version)| Some(format!("{contender} {}", version.as_ref()?)))
        .collect();
    let mut text = format!("- machine: {}\n- versions: {}\n", machine.facts(), versions.join(", "));
    for (contender, reason) in absent {
        let first = reason.lines().next().unwrap_or_default();
        text.push_str(&format!("- without {contender}: {first}\n"));
    }
    text
}
