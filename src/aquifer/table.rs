//! What the demo prints: aligned columns, and colours where a terminal shows them.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

/// No line is longer, in characters.
pub(crate) const WIDTH: usize = 118;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// Colours only on a terminal, and not where `NO_COLOR` is set (no-color.org: to anything but the empty text).
    pub(crate) fn of_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { on: std::io::stdout().is_terminal() && !unwanted }
    }

    /// Without colours.
    #[cfg(test)]
    pub(crate) fn off() -> Self {
        Self { on: false }
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Rows under a heading; the last `numbers` columns are aligned to the right.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) heading: Vec<&'static str>,
    pub(crate) numbers: usize,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// The lines, each indented by `indent`; words for verdicts are painted.
    pub(crate) fn lines(&self, indent: &str, paint: Paint) -> Vec<String> {
        let heading: Vec<String> = self.heading.iter().map(|&title| title.to_owned()).collect();
        let all = || std::iter::once(&heading).chain(&self.rows);
        let widths: Vec<usize> = (0..heading.len())
            .map(|column| {
                all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let line = |row: &Vec<String>| {
            let mut line = indent.to_owned();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                let shown = match cell.as_str() {
                    "allowed" => paint.good(cell),
                    "denied" | "failed" => paint.bad(cell),
                    _ => cell.clone(),
                };
                let right = column + self.numbers >= widths.len();
                let gap = if column == 0 { "" } else { "  " };
                // Writing to a String cannot fail.
                let _ = match right {
                    true => write!(line, "{gap}{padding}{shown}"),
                    false => write!(line, "{gap}{shown}{padding}"),
                };
            }
            line.trim_end().to_owned()
        };
        std::iter::once(paint.strong(&line(&heading))).chain(self.rows.iter().map(line)).collect()
    }
}

/// Breaks a text at spaces, so that no line is longer than [`WIDTH`] with its indent; a long word stays whole.
pub(crate) fn wrap(text: &str, indent: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

/// `87 µs`, `1.4 ms`, `2.5 s`.
pub(crate) fn time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// `512`, `12.3k`, `1.2M`.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1}k", count as f64 / 1e3),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let table = Table {
            heading: vec!["WHO", "VERDICT", "TIME"],
            numbers: 1,
            rows: vec![
                vec!["client".into(), "allowed".into(), "9 µs".into()],
                vec!["x".into(), "denied".into(), "120 µs".into()],
            ],
        };
        let expected =
            ["  WHO     VERDICT    TIME", "  client  allowed    9 µs", "  x       denied   120 µs"];
        assert_eq!(table.lines("  ", Paint::off()), expected);
        let painted = table.lines("", Paint { on: true });
        assert!(painted[1].contains("\x1b[32mallowed\x1b[0m"), "{painted:?}");
    }

    #[test]
    fn texts_are_broken_at_spaces() {
        let text = "word ".repeat(60);
        let lines = wrap(text.trim(), "    ");
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= WIDTH && line.starts_with("    ")));
        assert_eq!(lines.join(" ").split_whitespace().count(), 60);
    }

    #[test]
    fn measures_are_short() {
        let times = [87, 1_400, 250_000, 2_500_000].map(|micros| time(Duration::from_micros(micros)));
        assert_eq!(times, ["87 µs", "1.4 ms", "250 ms", "2.5 s"]);
        assert_eq!([9_999, 12_345, 1_234_567].map(bytes), ["9999", "12.3k", "1.2M"]);
    }
}
