//! The process's log: text or JSON, a filter that changes at run time, and a writer that never holds up a caller.
#![allow(clippy::todo, unused_variables)]

use std::time::Duration;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line a person can read.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "the log filter {filter:?} is not valid: {reason}; write a level (info) or directives (info,flow=off)"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody set a subscriber before.
    #[error("the log of this process was set up twice; this is a fault in aquifer, please report it")]
    Twice,
    /// The writer thread did not start.
    #[error("no thread for writing the log: {0}; the process is at its thread limit")]
    Thread(#[source] std::io::Error),
}

/// The log, to change it and to see it written.
#[derive(Clone, Debug)]
pub struct LogHandle {}

impl LogHandle {
    /// The filter in force.
    pub fn filter(&self) -> String {
        todo!()
    }
    /// Puts another filter in force.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        todo!()
    }
    /// Lines dropped since the queue was full: flow records, and others.
    pub fn dropped(&self) -> (u64, u64) {
        todo!()
    }
    /// Waits until all lines so far are written, at most `within`; whether they are.
    pub fn flush(&self, within: Duration) -> bool {
        todo!()
    }
}

/// Sets up the process's log on standard output. `RUST_LOG`, read by the caller, is `filter`; `info` where it is unset.
pub fn init_logging(format: LogFormat, filter: Option<&str>) -> Result<LogHandle, LogError> {
    todo!()
}
