//! The data-plane bench: all contenders side by side in one run, in interleaved rounds, as a table of medians and ratios.
//!
//! `cargo bench --workspace --bench dataplane -- [--growth | --limits | --gate | --write-baseline | --smoke] [--rounds N]
//! [--only CONTENDER,…] [--write] [--json FILE]`
//!
//! Aquifer is the program that `AQUIFER_BIN` names, or is built from this workspace.

use std::{fs, path::Path, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_benches::{
    baseline::{BEARABLE, Baseline, Comparison},
    contender::Contender,
    growth::{self, Growth},
    limits::{self, Limits},
    load,
    machine::Machine,
    metric::{Figures, Metric},
    report::Report,
    scenario::Scenario,
    session::{Entry, Session},
    table::{Section, folder},
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

    /// Measure how figures change with connections (1 to 512) and with workloads in the source (10 to 100,000); with --write as
    /// charts and tables beside RESULTS.md
    #[arg(long, group = "mode")]
    growth: bool,

    /// Measure memory and times that have a goal in absolute figures
    #[arg(long, group = "mode")]
    limits: bool,

    /// Compare the ratios to Envoy with the baseline, and fail where a row has lost more than 15 %
    #[arg(long, group = "mode")]
    gate: bool,

    /// Write the ratios to Envoy of this run as the baseline
    #[arg(long, group = "mode")]
    write_baseline: bool,

    /// The baseline's file [default: benches/baseline.json]
    #[arg(long)]
    baseline: Option<PathBuf>,

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
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["growth", "limits", "gate", "write_baseline"])]
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
    limits::dispatch();
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
        Options { growth: true, .. } => bench.growth(),
        Options { limits: true, .. } => bench.limits(),
        Options { gate: true, .. } => bench.gate(),
        Options { write_baseline: true, .. } => bench.write_baseline(),
        _ => bench.side_by_side(),
    }
}

/// Who takes part in which kind of run, unless `--only` says otherwise.
const ALL: [Contender; 5] = Contender::ALL;
const WITHOUT_HAPROXY: [Contender; 4] =
    [Contender::Direct, Contender::Envoy, Contender::Aquifer, Contender::AquiferOneNode];

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

    /// Growth with connections and workloads.
    fn growth(&self) -> Result<bool> {
        let sizes = growth::Sizes::full(self.options.rounds.unwrap_or(3), self.time()?);
        let growth = Growth::measure(&self.machine, self.dir, &self.entry(&WITHOUT_HAPROXY), &sizes)?;
        println!("{}", growth.markdown());
        if self.options.write {
            growth.write()?;
        }
        Ok(growth.is_excused())
    }

    /// Limits in absolute figures. One that is not met is said, and is no failure of the bench.
    fn limits(&self) -> Result<bool> {
        let sizes = limits::Sizes::full(self.options.rounds.unwrap_or(3), self.time()?);
        let limits = Limits::measure(&self.machine, self.dir, &self.entry(&WITHOUT_HAPROXY), sizes)?;
        println!("{}", limits.markdown());
        if self.options.write {
            Section::LIMITS.write(&limits.markdown())?;
        }
        Ok(true)
    }

    /// The ratios of a fresh run beside the baseline's.
    fn gate(&self) -> Result<bool> {
        let baseline = Baseline::read(&self.baseline())?;
        println!("{}", baseline.origin());
        self.warn_of_differences(&baseline);
        let (rounds, time) = (self.options.rounds.unwrap_or(3), self.time()?);
        let topology = Topology::build()?;
        let mut session = Session::start(&topology, self.dir, &self.entry(&WITHOUT_HAPROXY))?;
        let report = self.report(&mut session, rounds, time)?;
        let mut comparison = baseline.compare(&report.figures);
        measure_again(&mut comparison, &mut session, rounds, time)?;
        println!("{}", comparison.table());
        let lost = comparison.lost();
        ensure!(
            lost == 0,
            "{lost} rows are more than {:.0} % worse than the baseline: mend what slowed them, or write a new baseline with \
             --write-baseline where the loss is meant",
            BEARABLE * 100.0
        );
        println!("no row is more than {:.0} % worse than the baseline", BEARABLE * 100.0);
        Ok(session.absent().is_excused())
    }

    /// The baseline of later gates.
    fn write_baseline(&self) -> Result<bool> {
        let topology = Topology::build()?;
        let mut session = Session::start(&topology, self.dir, &self.entry(&WITHOUT_HAPROXY))?;
        let report = self.report(&mut session, self.options.rounds.unwrap_or(3), self.time()?)?;
        println!("{}", report.markdown());
        ensure!(session.absent().reasons.is_empty(), "a contender is missing, so this is no baseline");
        let file = self.baseline();
        baseline(&report)?.write(&file)?;
        println!("written to {}", file.display());
        Ok(true)
    }

    /// Everything once, with next to nothing; speed is not judged.
    fn smoke(&self) -> Result<bool> {
        let time = Duration::from_millis(250);
        let topology = Topology::build()?;
        let mut session = Session::start(&topology, self.dir, &self.entry(&ALL))?;
        let report = self.report(&mut session, 1, time)?;
        println!("{}", report.markdown());
        let excused = session.absent().is_excused();
        if session.absent().reasons.is_empty() && self.options.only.is_empty() {
            gate_against_itself(&report, &self.dir.join("baseline.json"))?;
        }
        drop(session);
        drop(topology);
        let entry = self.entry(&WITHOUT_HAPROXY);
        let growth = Growth::measure(&self.machine, self.dir, &entry, &growth::Sizes::smoke(time))?;
        println!("{}", growth.markdown());
        ensure!(growth.charts().iter().all(|chart| chart.ends_with("</svg>\n")), "a chart is not whole");
        let limits = Limits::measure(&self.machine, self.dir, &entry, limits::Sizes::smoke(time))?;
        println!("{}", limits.markdown());
        Ok(excused && growth.is_excused())
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

    fn baseline(&self) -> PathBuf {
        self.options.baseline.clone().unwrap_or_else(|| folder().join("baseline.json"))
    }

    /// What makes a comparison worth less.
    fn warn_of_differences(&self, baseline: &Baseline) {
        let Machine { processor, cores, busy_before, .. } = &baseline.machine;
        if !baseline.machine.is_quiet() {
            let busy = busy_before * 100.0;
            eprintln!(
                "warning: the baseline's machine was {busy:.0} % busy with other work: write a new one on a quiet one"
            );
        }
        if (processor, cores) != (&self.machine.processor, &self.machine.cores) {
            eprintln!(
                "warning: this machine is another one than the baseline's; ratios may differ for that alone"
            );
        }
        if baseline.seconds != self.options.seconds {
            eprintln!("warning: the baseline's scenarios took {} s each", baseline.seconds);
        }
    }
}

/// Measures the rows once more that are just past the limit.
fn measure_again(
    comparison: &mut Comparison,
    session: &mut Session<'_>,
    rounds: usize,
    time: Duration,
) -> Result<()> {
    let doubtful = comparison.doubtful();
    if doubtful.is_empty() {
        return Ok(());
    }
    let titles: Vec<_> = doubtful.iter().map(|metric| metric.title()).collect();
    println!("just past the limit, hence measured again: {}\n", titles.join("; "));
    let mut figures = Figures::default();
    session.rounds(0..rounds, &Scenario::that_measure(&doubtful), time, &mut figures)?;
    comparison.measured_again(&figures);
    Ok(())
}

/// A run has lost nothing beside its own baseline.
fn gate_against_itself(report: &Report, file: &Path) -> Result<()> {
    baseline(report)?.write(file)?;
    let comparison = Baseline::read(file)?.compare(&report.figures);
    ensure!(comparison.lost() == 0, "a run is worse than itself:\n{}", comparison.table());
    Ok(())
}

fn baseline(report: &Report) -> Result<Baseline> {
    let aquifer = report.contenders.iter().find(|(contender, _)| *contender == Contender::Aquifer);
    let version = aquifer.and_then(|(_, version)| version.as_deref()).unwrap_or("unknown");
    Baseline::of(&report.machine, version, report.rounds, report.seconds, &report.figures)
}

fn chosen<T: Copy>(only: &[T], all: &[T]) -> Vec<T> {
    if only.is_empty() { all.to_vec() } else { only.to_vec() }
}
