//! `aquifer check`: is the cluster fit for the mesh, is the mesh as it should be, and what to do where not.

mod before;
mod installed;

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kube::Client;
use serde::Serialize;

use crate::cli::{CheckFlags, Output};
use crate::cluster;
use crate::table::Paint;

/// Between two looks with `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

/// Exit status where the cluster cannot be asked.
const UNREACHABLE: u8 = 2;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Good,
    Warning,
    Error,
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at: a short name that stays over versions.
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    /// What is so, with the names of those concerned.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) mend: Option<String>,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Good, found: found.into(), mend: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, found: found.into(), mend: Some(mend.into()) }
    }

    fn error(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, level: Level::Error, found: found.into(), mend: Some(mend.into()) }
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

/// Looks, says what was found, and tells by the exit status.
pub(crate) async fn run(flags: &CheckFlags) -> anyhow::Result<ExitCode> {
    let client = match cluster::client(&flags.cluster).await {
        Ok(client) => client,
        Err(error) => {
            eprintln!("aquifer: {error:#}");
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    let until = Instant::now() + flags.wait.unwrap_or_default();
    let mut told = None;
    loop {
        let findings = Findings { findings: look(&client, flags).await };
        let wrong = findings.findings.iter().filter(|finding| finding.level >= flags.threshold());
        let names: Vec<_> = wrong.map(|finding| finding.check).collect();
        if names.is_empty() || Instant::now() >= until {
            match flags.output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
                Output::Text => findings.print(flags.short),
            }
            return Ok(if names.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if told.as_ref() != Some(&names) {
            eprintln!("waiting for: {}", names.join(", "));
            told = Some(names);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(client: &Client, flags: &CheckFlags) -> Vec<Finding> {
    let mut findings = before::look(client, flags.pre).await;
    if !flags.pre
        && findings.iter().all(|finding| finding.check != before::API_SERVER || finding.level < Level::Error)
    {
        findings.extend(installed::look(client, flags.fail_if_expiring_within).await);
    }
    findings
}

impl CheckFlags {
    fn threshold(&self) -> Level {
        if self.fail_on_warning { Level::Warning } else { Level::Error }
    }
}

impl Findings {
    fn print(&self, short: bool) {
        let paint = Paint::of_stdout();
        for finding in self.findings.iter().filter(|finding| !short || finding.level > Level::Good) {
            let mark = match finding.level {
                Level::Good => paint.good("ok     "),
                Level::Warning => paint.strong("warning"),
                Level::Error => paint.bad("error  "),
            };
            println!("{mark}  {:<14} {}", finding.check, finding.found);
            if let Some(mend) = &finding.mend {
                println!("{:25}to do: {mend}", "");
            }
        }
        println!("{self}");
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        write!(
            f,
            "{} checks: {} good, {} warnings, {} errors",
            self.findings.len(),
            count(Level::Good),
            count(Level::Warning),
            count(Level::Error)
        )
    }
}

/// Some names of many, so that a line stays a line.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
