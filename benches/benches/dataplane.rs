//! The data-plane bench: all contenders side by side in one run, in interleaved rounds, as a table of medians and ratios.
//!
//! `cargo bench --workspace --bench dataplane -- [--smoke] [--rounds N]
//! [--only CONTENDER,…] [--write] [--json FILE]`
//!
//! Aquifer is the program that `AQUIFER_BIN` names, or is built from this workspace.

use std::{fs, path::Path, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use aquifer_benches::{
    contender::Contender,
    load,
    machine::Machine,
    metric::{Figures, Metric},
    report::Report,
    scenario::Scenario,
    session::{Entry, Session},
    table::Section,
    topology::Topology,
};
use clap::Parser;

/// Measures Aquifer beside direct calls, HAProxy and Envoy, on two nodes of network namespaces. Needs root.
#[derive(Debug, Parser)]
struct Options {
    /// Check in under a minute that every contender carries data, that the figures make sense, and that growth, limits and gate
    /// work; judge no speed
    #[arg(long, group = "mode")]
    smoke: bool,

    /// Rounds; in each, every contender runs every scenario [default: 5; of the gate, growth and limits: 3]
    #[arg(long)]
    rounds: Option<usize>,

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

    /// Put the tables (and of growth the charts) into benches/RESULTS.md
    #[arg(long)]
    write: bool,

    /// Write all figures of the contenders' rounds to this file
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
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the data-plane bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well that should.
fn run(options: &Options) -> Result<bool> {
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
    let bench = Bench { options, machine, dir: &dir };
    match options {
        Options { smoke: true, .. } => bench.smoke(),
        _ => bench.side_by_side(),
    }
}

/// Who takes part in which kind of run, unless `--only` says otherwise.
const ALL: [Contender; 5] = Contender::ALL;

struct Bench<'a> {
    options: &'a Options,
    machine: Machine,
    dir: &'a Path,
}

impl Bench<'_> {
    /// The table of contenders.
    fn side_by_side(&self) -> Result<bool> {
        let time = self.time()?;
        let topology = Topology::build()?;
        let mut session = Session::start(&topology, self.dir, &self.entry(&ALL))?;
        let report = self.report(&mut session, self.options.rounds.unwrap_or(5), time)?;
        println!("{}", report.markdown());
        if self.options.write {
            Section::DATA_PLANE.write(&report.markdown())?;
        }
        Ok(session.absent().is_excused())
    }

    /// Everything once, with next to nothing; speed is not judged.
    fn smoke(&self) -> Result<bool> {
        let time = Duration::from_millis(250);
        let topology = Topology::build()?;
        let mut session = Session::start(&topology, self.dir, &self.entry(&ALL))?;
        let report = self.report(&mut session, 1, time)?;
        println!("{}", report.markdown());
        let excused = session.absent().is_excused();
        drop(session);
        drop(topology);
        Ok(excused)
    }

    /// Memory, rounds, memory; the figures also go to the file of `--json`.
    fn report(&self, session: &mut Session<'_>, rounds: usize, time: Duration) -> Result<Report> {
        let rounds = rounds.max(1);
        let mut figures = Figures::default();
        session.memory(Metric::MemoryIdle, &mut figures)?;
        let scenarios = chosen(&self.options.scenarios, &Scenario::ALL);
        session.rounds(0..rounds, &scenarios, time, &mut figures)?;
        session.memory(Metric::MemoryAfter, &mut figures)?;
        let report = Report {
            machine: self.machine.clone(),
            rounds,
            seconds: time.as_secs_f64(),
            contenders: session.versions().to_vec(),
            absent: session.absent().reasons.clone(),
            figures,
        };
        if let Some(file) = &self.options.json {
            fs::write(file, format!("{:#}\n", report.json()))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(report)
    }

    fn entry(&self, usual: &[Contender]) -> Entry {
        Entry {
            contenders: chosen(&self.options.only, usual),
            threads: self.options.threads,
            no_skip: self.options.no_skip,
        }
    }

    fn time(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.options.seconds).context("--seconds is no time")
    }
}

fn chosen<T: Copy>(only: &[T], all: &[T]) -> Vec<T> {
    if only.is_empty() { all.to_vec() } else { only.to_vec() }
}
