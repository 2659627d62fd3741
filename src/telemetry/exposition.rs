//! Writing of the Prometheus text exposition, format 0.0.4.

use std::fmt::{Display, Write};

use crate::{Kind, Metric};

/// Text that grows family by family.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

impl Exposition {
    /// Starts a family; its samples follow.
    pub(crate) fn family(&mut self, metric: &Metric) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Help texts are our own and hold neither backslash nor line feed; a test over the whole table says so.
        let _ = writeln!(self.text, "# HELP {0} {1}\n# TYPE {0} {kind}", metric.name, metric.help);
    }

    /// A sample of the family that was started last. `labels` is what [`labels`] made, or empty.
    pub(crate) fn sample(&mut self, metric: &Metric, labels: &str, value: impl Display) {
        let _ = if labels.is_empty() {
            writeln!(self.text, "{} {value}", metric.name)
        } else {
            writeln!(self.text, "{}{{{labels}}} {value}", metric.name)
        };
    }

    /// A family of one sample without labels.
    pub(crate) fn single(&mut self, metric: &Metric, value: impl Display) {
        self.family(metric);
        self.sample(metric, "", value);
    }

    /// Takes in what another exporter rendered, families in order of name, samples in order of labels. (The recorder
    /// renders out of hash maps; a page whose order changes at each look is no use to a reader.)
    pub(crate) fn merge(&mut self, rendered: &str) {
        let mut families: Vec<Vec<&str>> = rendered
            .split("\n\n")
            .map(|family| family.lines().collect())
            .filter(|f: &Vec<_>| !f.is_empty())
            .collect();
        families.sort();
        for family in &mut families {
            // `#` sorts before any name, and HELP before TYPE.
            family.sort_unstable();
            for line in family {
                self.text.push_str(line);
                self.text.push('\n');
            }
        }
    }

    /// The whole.
    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// `name="value",…`, values escaped.
pub(crate) fn labels<'a>(pairs: impl IntoIterator<Item = (&'static str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text
}
