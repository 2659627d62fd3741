//! What is wrong with the input, said so that a person finds the place and knows what to do.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// How bad a [`Problem`] is. Ordered: the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong; something was left aside.
    Note,
    /// It was understood, but probably does not mean what its author meant.
    Warning,
    /// It was not taken as written.
    Error,
}

/// One thing that is wrong with a file or an object, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// The file, below the folder as it was given; of an API server the object, as `Pod shop/cart-0`.
    pub file: PathBuf,
    /// Number of the YAML document in the file, from 1. `None`: the file as a whole.
    pub document: Option<u32>,
    /// Line in the file, from 1.
    pub line: Option<u32>,
    /// Column in the line, in characters, from 1.
    pub column: Option<u32>,
    /// Path of the field, such as `spec.rules[0].from[0].source.ipBlocks[1]`.
    pub field: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, what was done instead, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        if let Some(document) = self.document {
            write!(f, " (document {document})")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, ": {severity}: {}", self.message)
    }
}

/// Why a source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder, or something in it, cannot be read.
    #[error("cannot read {path}: {error}; {advice}", path = path.display())]
    Unreadable {
        /// What could not be read.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// The API server could not be read.
    #[error(
        "cannot read the cluster: {0}; check that the API server is reached and that its rights allow list and watch"
    )]
    Cluster(String),
    /// A bound was passed, so that the mesh would be known in part only.
    #[error("{path} {what}, more than the bound of {bound}; split it, or move what is not for the mesh elsewhere", path = path.display())]
    TooMuch {
        /// What is too large.
        path: PathBuf,
        /// What it has too much of, with the number where it is known.
        what: String,
        /// The bound.
        bound: u64,
    },
}

/// Logs what is new, and what was mended.
pub(crate) fn say(before: &[Problem], now: &[Problem]) {
    let old: HashSet<&Problem> = before.iter().collect();
    let new: HashSet<&Problem> = now.iter().collect();
    for problem in now.iter().filter(|problem| !old.contains(problem)) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
            Severity::Note => tracing::debug!("{problem}"),
        }
    }
    let mended = before.iter().filter(|problem| problem.severity > Severity::Note && !new.contains(problem));
    for problem in mended {
        tracing::info!("no longer: {problem}");
    }
}
