//! Tables in Markdown, and the places in RESULTS.md where they belong.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// A part of RESULTS.md that a run writes, between two lines that carry its name; the text around is written by people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section(&'static str);

impl Section {
    /// All contenders side by side, and the goals.
    pub const DATA_PLANE: Self = Self("data plane");
    /// Limits in absolute figures.
    pub const LIMITS: Self = Self("limits");
    /// How figures change with connections and workloads.
    pub const GROWTH: Self = Self("growth");
    /// What a change costs a controller and its nodes.
    pub const DISCOVERY: Self = Self("discovery");

    /// Puts a text into RESULTS.md in place of what the last run wrote there.
    ///
    /// # Errors
    /// Where the file has lost the lines between which the text belongs, or cannot be written.
    pub fn write(self, text: &str) -> Result<()> {
        let file = folder().join("RESULTS.md");
        let old = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let new = self.replace(&old, text);
        ensure!(
            new.is_some(),
            "{} lacks the lines `{}` and `{}`, between which the table belongs: put them back",
            file.display(),
            self.begin(),
            self.end()
        );
        fs::write(&file, new.unwrap_or_default()).with_context(|| format!("cannot write {}", file.display()))
    }

    fn begin(self) -> String {
        format!("<!-- {}: written by the bench -->", self.0)
    }

    fn end(self) -> String {
        format!("<!-- {}: end -->", self.0)
    }

    fn replace(self, text: &str, between: &str) -> Option<String> {
        let (begin, end) = (self.begin(), self.end());
        let (before, rest) = text.split_once(&begin)?;
        let (_, after) = rest.split_once(&end)?;
        Some(format!("{before}{begin}\n\n{between}\n{end}{after}"))
    }
}

/// The folder of this crate, where results are kept.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// A Markdown table whose columns also line up for a person who reads it raw; the first row is its head.
pub fn aligned(rows: &[Vec<String>]) -> String {
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
pub fn grouped(value: f64, digits: usize) -> String {
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
        let [begin, end] = [Section::LIMITS.begin(), Section::LIMITS.end()];
        let text = format!("before\n{begin}\nold\n{end}\nafter\n");
        let new = Section::LIMITS.replace(&text, "new\n").unwrap();
        assert_eq!(new, format!("before\n{begin}\n\nnew\n\n{end}\nafter\n"));
        assert_eq!(Section::GROWTH.replace(&text, "new"), None);
    }

    #[test]
    fn a_table_lines_up() {
        let rows = vec![vec![String::new(), "a".into()], vec!["µs".into(), "12".into()]];
        assert_eq!(aligned(&rows), "|     |   a |\n|-----|----:|\n| µs  |  12 |\n");
    }
}
