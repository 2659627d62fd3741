//! `aquifer check`: is the cluster fit for the mesh, is the mesh as it should be, and what to do where not.

mod before;
mod certificates;
mod controllers;
mod facts;
mod nodes;
mod pods;
mod policies;
mod probe;
mod services;
#[cfg(test)]
mod tests;
mod walls;

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kube::Client;
use serde::Serialize;
use tokio::signal::ctrl_c;

use crate::cli::{CheckFlags, CheckOutput, Output};
use crate::cluster;
use crate::table::Paint;
use facts::Facts;
pub(crate) use probe::serve as serve_probe;

/// Between two looks with `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

/// Exit status where the cluster cannot be asked.
const UNREACHABLE: u8 = 2;

/// Exit status of a command that SIGINT ended, as shells have it.
const INTERRUPTED: u8 = 130;

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
    /// Who can mend it: the mesh, the cluster, the network, the owner of a namespace.
    pub(crate) whose: Option<String>,
    /// What to do about it, a command where one does it.
    pub(crate) mend: Option<String>,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Good, found: found.into(), whose: None, mend: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warning, mend: Some(mend.into()), ..Self::good(check, found) }.of(MESH)
    }

    fn error(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Error, mend: Some(mend.into()), ..Self::good(check, found) }.of(MESH)
    }

    /// Whether it leaves sense in looking further: not where the API server does not answer.
    fn reached(&self) -> bool {
        self.check != before::API_SERVER || self.level < Level::Error
    }

    /// Whose it is to mend.
    fn of(self, whose: impl Into<String>) -> Self {
        Self { whose: Some(whose.into()), ..self }
    }
}

/// Whose a fault is, where it is nobody's in particular.
const MESH: &str = "the mesh's installation";
const CLUSTER: &str = "the cluster";
const NETWORK: &str = "the network between the nodes";

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
        // On the heap, since it is large. Who interrupts is heard at each step: the probe's way of hearing it has
        // switched off that it ends the process.
        let looked = tokio::select! {
            looked = Box::pin(look(&client, flags)) => looked,
            _ = ctrl_c() => return Ok(ExitCode::from(INTERRUPTED)),
        };
        let (mut findings, facts) = looked;
        if let Some(facts) = facts.filter(|_| flags.probe) {
            match probe::look(&client, &facts).await {
                Some(found) => findings.extend(found),
                None => return Ok(ExitCode::from(INTERRUPTED)),
            }
        }
        let findings = Findings { findings };
        let wrong = findings.findings.iter().filter(|finding| finding.level >= flags.threshold());
        let names: Vec<_> = wrong.map(|finding| finding.check).collect();
        if names.is_empty() || Instant::now() >= until {
            findings.tell(flags.output)?;
            return Ok(findings.code(names.is_empty()));
        }
        if told.as_ref() != Some(&names) {
            eprintln!("waiting for: {}", names.join(", "));
            told = Some(names);
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = ctrl_c() => return Ok(ExitCode::from(INTERRUPTED)),
        }
    }
}

/// What is found without a call; of a mesh that is installed also the facts.
async fn look(client: &Client, flags: &CheckFlags) -> (Vec<Finding>, Option<Facts>) {
    let mut findings = before::look(client, flags.pre).await;
    if flags.pre || !findings.iter().all(Finding::reached) {
        return (findings, None);
    }
    let facts = Box::pin(Facts::gather(client)).await;
    findings.extend(judge(&facts, flags.fail_if_expiring_within));
    (findings, Some(facts))
}

/// What is to be said of an installed mesh; everything that it depends on is in its arguments.
fn judge(facts: &Facts, fail_within: Option<Duration>) -> Vec<Finding> {
    let mut findings = controllers::judge(facts);
    if facts.nothing_installed() {
        return findings;
    }
    findings.extend(nodes::judge(facts));
    findings.extend(pods::judge(facts));
    findings.extend(certificates::judge(facts, fail_within));
    findings.extend(services::judge(facts));
    findings.extend(policies::judge(facts));
    findings.extend(walls::judge(facts));
    findings
}

impl CheckFlags {
    fn threshold(&self) -> Level {
        if self.fail_on_warning { Level::Warning } else { Level::Error }
    }
}

impl Findings {
    fn tell(&self, output: CheckOutput) -> anyhow::Result<()> {
        match output {
            CheckOutput::Text => self.print(false),
            CheckOutput::Short => self.print(true),
            CheckOutput::Json => Output::Json.print(self, || ())?,
            CheckOutput::Yaml => Output::Yaml.print(self, || ())?,
        }
        Ok(())
    }

    fn code(&self, well: bool) -> ExitCode {
        match (self.findings.iter().all(Finding::reached), well) {
            (false, _) => ExitCode::from(UNREACHABLE),
            (true, true) => ExitCode::SUCCESS,
            (true, false) => ExitCode::FAILURE,
        }
    }

    fn print(&self, short: bool) {
        let paint = Paint::of_stdout();
        for finding in self.findings.iter().filter(|finding| !short || finding.level > Level::Good) {
            let mark = match finding.level {
                Level::Good => paint.good("ok     "),
                Level::Warning => paint.strong("warning"),
                Level::Error => paint.bad("error  "),
            };
            println!("{mark}  {:<14} {}", finding.check, finding.found);
            if let Some(whose) = &finding.whose {
                println!("{:25}at fault: {whose}", "");
            }
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
