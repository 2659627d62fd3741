//! The data-plane bench: all contenders side by side in one run, in interleaved rounds, as a table of medians and ratios.
//!
//! `cargo bench -p aquifer-benches --bench dataplane -- [--smoke] [--rounds N] [--only CONTENDER,…] [--write] [--json FILE]`
//!
//! Aquifer is the program that `AQUIFER_BIN` names, or is built from this workspace.

use std::{fs, path::Path, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use aquifer_benches::{
    contender::{Contender, Stage, Standing},
    load,
    machine::Machine,
    metric::{Figures, Metric},
    report::Report,
    scenario::{Round, Scenario, record_memory},
    topology::Topology,
};
use aquifer_integration::peers::PeerError;
use clap::Parser;

/// Measures Aquifer beside direct calls, HAProxy and Envoy, on two nodes of network namespaces. Needs root.
#[derive(Debug, Parser)]
struct Options {
    /// Check in a few seconds that every contender carries data and that the figures make sense, and judge no speed
    #[arg(long)]
    smoke: bool,

    /// Rounds; in each, every contender runs every scenario
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Seconds of each scenario
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,

    /// Only these contenders (Envoy is what the ratios refer to)
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,

    /// Only these scenarios
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<Scenario>,

    /// Worker threads of each HAProxy and Envoy [default: the number of cores]
    #[arg(long)]
    threads: Option<usize>,

    /// Fail where a contender cannot be had, instead of going on without it
    #[arg(long, env = "AQUIFER_NO_SKIP", value_parser = clap::builder::FalseyValueParser::new())]
    no_skip: bool,

    /// Put the table into benches/RESULTS.md
    #[arg(long)]
    write: bool,

    /// Write all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,

    /// Keep configuration and logs of the proxies in this directory
    #[arg(long)]
    logs: Option<PathBuf>,

    /// What `cargo bench` passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    load::dispatch();
    match run(&Options::parse()) {
        Ok(report) if report.absent.is_empty() => ExitCode::SUCCESS,
        Ok(report) => {
            let failed = report.absent.iter().filter(|(_, reason)| !reason.starts_with(SKIPPED)).count();
            ExitCode::from(u8::from(failed > 0))
        }
        Err(error) => {
            eprintln!("the data-plane bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How the reason of a contender begins that is not to be had on this machine.
const SKIPPED: &str = "skipped: ";

fn run(options: &Options) -> Result<Report> {
    let rounds = if options.smoke { 1 } else { options.rounds.max(1) };
    let seconds = if options.smoke { 0.25 } else { options.seconds };
    let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    let machine = Machine::look();
    if !options.smoke && !machine.is_quiet() {
        let busy = machine.busy_before * 100.0;
        eprintln!("warning: the machine is {busy:.0} % busy with other work; figures will be off");
    }

    let temporary = tempfile::tempdir().context("cannot make a directory for configurations")?;
    let dir = options.logs.as_deref().unwrap_or(temporary.path());
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    // Programs are started with another working directory in mind.
    let dir = dir.canonicalize()?;
    let topology = Topology::build()?;
    let mut stage = Stage::new(&topology, &dir, options.threads);
    let mut absent = Vec::new();
    let mut standing = Vec::new();
    for contender in chosen(&options.only, &Contender::ALL) {
        match stage.start(contender) {
            Ok(ready) => standing.push(ready),
            Err(error) => leave_out(&mut absent, contender, &error, options.no_skip),
        }
    }
    let versions: Vec<_> = standing.iter().map(|each| (each.contender, each.version.clone())).collect();

    let mut figures = Figures::default();
    for each in &standing {
        record_memory(each, Metric::MemoryIdle, &mut figures)?;
    }
    let scenarios = chosen(&options.scenarios, &Scenario::ALL);
    for number in 0..rounds {
        eprintln!("round {} of {rounds}", number + 1);
        round(number, &mut standing, &scenarios, time, &mut figures, |contender, error| {
            leave_out(&mut absent, contender, error, options.no_skip);
        });
    }
    for each in &standing {
        record_memory(each, Metric::MemoryAfter, &mut figures)?;
    }
    if standing.is_empty() {
        bail!("no contender is left to measure");
    }

    let report = Report { machine, rounds, seconds, contenders: versions, absent, figures };
    println!("{}", report.markdown());
    if let Some(file) = &options.json {
        fs::write(file, format!("{:#}\n", report.json()))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if options.write {
        report.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md"))?;
    }
    Ok(report)
}

/// One round: every scenario by every contender, a different one first each time; those that fail leave.
fn round(
    number: usize,
    standing: &mut Vec<Standing>,
    scenarios: &[Scenario],
    time: Duration,
    figures: &mut Figures,
    mut leave: impl FnMut(Contender, &anyhow::Error),
) {
    let mut rounds: Vec<Round> = standing.iter().map(|_| Round::default()).collect();
    let mut failed = Vec::new();
    for &scenario in scenarios {
        for turn in 0..standing.len() {
            let index = (turn + number) % standing.len();
            if failed.contains(&index) {
                continue;
            }
            match scenario.run(&standing[index], time) {
                Ok(measured) => rounds[index].add(measured),
                Err(error) => {
                    leave(standing[index].contender, &error);
                    failed.push(index);
                }
            }
        }
    }
    let direct = standing
        .iter()
        .zip(&rounds)
        .find(|(each, _)| each.contender == Contender::Direct)
        .and_then(|(_, round)| round.median());
    for (each, round) in standing.iter().zip(&rounds) {
        round.record(each, direct, figures);
    }
    let mut index = 0;
    standing.retain(|_| {
        index += 1;
        !failed.contains(&(index - 1))
    });
}

fn leave_out(
    absent: &mut Vec<(Contender, String)>,
    contender: Contender,
    error: &anyhow::Error,
    no_skip: bool,
) {
    let missing = error.downcast_ref::<PeerError>().is_some_and(PeerError::is_unavailable);
    let kind = if missing && !no_skip { SKIPPED } else { "failed: " };
    let reason = format!("{kind}{error:#}");
    eprintln!("{contender} {reason}");
    absent.push((contender, reason));
}

fn chosen<T: Copy>(only: &[T], all: &[T]) -> Vec<T> {
    if only.is_empty() { all.to_vec() } else { only.to_vec() }
}
