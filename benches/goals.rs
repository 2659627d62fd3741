//! The goals: how Aquifer is to stand beside Envoy in the same round of the same run, in every round.

use crate::{
    contender::Contender,
    metric::{Figures, Metric, median},
    table::aligned,
};

/// A goal for one row, as the ratio of Aquifer's figure to Envoy's: at least that where more is better, else at most.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The row.
    pub metric: Metric,
    /// Client and server on different nodes.
    pub across: f64,
    /// Both on one node, where there is a goal for it.
    pub one_node: Option<f64>,
}

/// All goals, in the order of the table.
pub const GOALS: [Goal; 12] = [
    goal(Metric::Added1, 0.7, 0.45),
    goal(Metric::Requests64, 1.5, 1.8),
    goal(Metric::Tail64, 0.65, 0.5),
    goal(Metric::CpuPerRequest, 0.6, 0.5),
    goal(Metric::Connections, 1.6, 1.8),
    goal(Metric::CpuPerConnection, 0.5, 0.45),
    goal(Metric::Up1, 1.35, 2.0),
    goal(Metric::Down1, 1.35, 2.0),
    goal(Metric::Up8, 1.6, 2.0),
    goal(Metric::Down8, 1.6, 2.0),
    goal(Metric::CpuPerGigabyte, 0.65, 0.45),
    Goal { metric: Metric::TailBesideBulk, across: 0.7, one_node: None },
];

const fn goal(metric: Metric, across: f64, one_node: f64) -> Goal {
    Goal { metric, across, one_node: Some(one_node) }
}

impl Goal {
    /// The contenders it is for, each with its bound.
    fn bounds(self) -> impl Iterator<Item = (Contender, f64)> {
        let one_node = self.one_node.map(|bound| (Contender::AquiferOneNode, bound));
        [(Contender::Aquifer, self.across)].into_iter().chain(one_node)
    }

    /// Whether a ratio meets a bound.
    fn is_met(self, bound: f64, ratio: f64) -> bool {
        if self.metric.more_is_better() { ratio >= bound } else { ratio <= bound }
    }
}

/// What a run says to one goal of one contender.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Verdict {
    median: f64,
    least: f64,
    most: f64,
    /// Rounds in which it was met, of all.
    met: usize,
    rounds: usize,
}

impl Verdict {
    /// `None` where the run has no ratio for it.
    fn of(goal: Goal, bound: f64, ratios: &[f64]) -> Option<Self> {
        Some(Self {
            median: median(ratios)?,
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            met: ratios.iter().filter(|&&ratio| goal.is_met(bound, ratio)).count(),
            rounds: ratios.len(),
        })
    }

    fn word(self) -> String {
        match self.met {
            met if met == self.rounds => format!("met in {met} of {met}"),
            met => format!("**not met**, {met} of {}", self.rounds),
        }
    }
}

/// The goals beside what a run found; rows that it did not measure are left out. `None` where none was measured.
pub fn table(figures: &Figures) -> Option<String> {
    let heads = ["ratio to Envoy", "where", "goal", "median", "least", "most", "in every round"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for goal in GOALS {
        for (contender, bound) in goal.bounds() {
            let Some(verdict) = Verdict::of(goal, bound, &figures.ratios(goal.metric, contender)) else {
                continue;
            };
            let place = if contender == Contender::Aquifer { "across nodes" } else { "on one node" };
            let sign = if goal.metric.more_is_better() { '≥' } else { '≤' };
            rows.push(vec![
                goal.metric.title().to_owned(),
                place.to_owned(),
                format!("{sign} {bound}"),
                format!("{:.2}", verdict.median),
                format!("{:.2}", verdict.least),
                format!("{:.2}", verdict.most),
                verdict.word(),
            ]);
        }
    }
    (rows.len() > 1).then(|| aligned(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_on_its_better_side() {
        let [more, less] = [Metric::Requests64, Metric::Tail64]
            .map(|metric| GOALS.into_iter().find(|goal| goal.metric == metric).unwrap());
        assert!(more.is_met(1.5, 1.5) && more.is_met(1.5, 2.0) && !more.is_met(1.5, 1.49));
        assert!(less.is_met(0.65, 0.65) && less.is_met(0.65, 0.1) && !less.is_met(0.65, 0.66));
    }

    #[test]
    fn a_goal_missed_in_one_round_is_missed() {
        let goal = GOALS[1];
        let verdict = Verdict::of(goal, 1.5, &[1.6, 1.4, 1.7]).unwrap();
        assert_eq!(verdict, Verdict { median: 1.6, least: 1.4, most: 1.7, met: 2, rounds: 3 });
        assert_eq!(verdict.word(), "**not met**, 2 of 3");
        assert_eq!(Verdict::of(goal, 1.5, &[1.6, 1.5]).unwrap().word(), "met in 2 of 2");
        assert_eq!(Verdict::of(goal, 1.5, &[]), None);
    }

    #[test]
    fn the_table_has_what_was_measured() {
        let mut figures = Figures::default();
        assert_eq!(table(&figures), None);
        figures.add(Metric::Tail64, Contender::Envoy, 0, 100.0);
        figures.add(Metric::Tail64, Contender::AquiferOneNode, 0, 40.0);
        let table = table(&figures).unwrap();
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(
            table.contains("on one node") && table.contains("≤ 0.5") && table.contains("0.40"),
            "{table}"
        );
    }
}
