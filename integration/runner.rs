//! Runs scenarios, each in a sandbox and process of its own, and reports them as `cargo test` does.

use std::{
    any::Any,
    env, fs,
    io::{self, Read as _, Seek as _, Write as _},
    num::NonZero,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::{self, ExitCode, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    bed::{Bed, Plan},
    mesh::Mesh,
    sandbox::{self, Place},
};

/// How long a scenario may take unless it asks for more with [`Stage::allow`].
const DEADLINE: Duration = Duration::from_secs(120);

/// Past its own deadline a scenario's process is killed by the runner after this; it bounds a process that cannot even report.
const HARD_DEADLINE: Duration = Duration::from_secs(1200);

/// Lines of each log that are shown for a scenario that failed.
const LOG_LINES: usize = 60;

/// Exit codes of a scenario's process.
const FAILED: i32 = 101;
const SKIPPED: i32 = 96;
const BREACHED: i32 = 102;

/// Names the scenario to the process that plays it.
const NAME: &str = "AQUIFER_SCENARIO";

/// A story with its name. `story` says in one sentence what must hold.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Short name with underscores, unique in its file.
    pub name: &'static str,
    /// What a reader should learn when it fails.
    pub story: &'static str,
    /// The story; an error or a panic is a failure, [`Skip`] is a skip.
    pub run: fn(&mut Stage) -> Result<()>,
}

/// An error that means: this machine cannot play the scenario, for a reason that is no fault of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// An error that means: what policy forbids has happened.
///
/// With [`main_refuted`] a scenario must end in one where policy is not enforced; any other failure does not count as
/// the scenario having noticed.
#[derive(Debug, thiserror::Error)]
#[error("policy was not enforced: {0}")]
pub struct Breach(pub String);

/// What a scenario plays on.
#[derive(Debug)]
pub struct Stage {
    name: String,
    dir: PathBuf,
    end: Arc<Mutex<Instant>>,
}

impl Stage {
    /// The scenario's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory of its own, in memory. Files in it that end in `.log` are shown when the scenario fails.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Two nodes without Aquifer.
    pub fn bed(&self) -> Result<Bed> {
        self.bed_of(Plan::default())
    }

    /// Nodes without Aquifer, by plan.
    pub fn bed_of(&self, plan: Plan) -> Result<Bed> {
        Bed::new(plan)
    }

    /// Two nodes on which Aquifer is to run; [`Mesh::start`] starts it.
    pub fn mesh(&self) -> Result<Mesh> {
        self.mesh_of(Plan::default())
    }

    /// Nodes on which Aquifer is to run, by plan.
    pub fn mesh_of(&self, plan: Plan) -> Result<Mesh> {
        Mesh::new(Bed::new(plan)?, &self.dir)
    }

    /// Sets the deadline to so long from now.
    pub fn allow(&self, time: Duration) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + time;
    }
}

/// The `main` of a scenario file (`harness = false`).
///
/// Understands of `cargo test`'s arguments: name filters, `--exact`, `--skip NAME`, `--list`, `--test-threads N` (default: the
/// number of cores), `--nocapture`. With `AQUIFER_NO_SKIP=1` a skip is a failure.
pub fn main(scenarios: &[Scenario]) -> ExitCode {
    run(scenarios, None)
}

/// As [`main`], for scenarios of which each plays a second time with an environment variable set, under which the nodes enforce
/// no policy: it then has to end in a [`Breach`], or it proves nothing and has failed.
pub fn main_refuted(scenarios: &[Scenario], variable: &'static str) -> ExitCode {
    run(scenarios, Some(variable))
}

fn run(scenarios: &[Scenario], refuted_by: Option<&'static str>) -> ExitCode {
    if sandbox::enter() == Place::Inside {
        process::exit(play(scenarios));
    }
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => Options { refuted_by, ..options },
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let chosen: Vec<_> = scenarios.iter().filter(|scenario| options.chooses(scenario.name)).collect();
    if options.list {
        for scenario in &chosen {
            println!("{}: test", scenario.name);
        }
        println!("\n{} tests, 0 benchmarks", chosen.len());
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    println!("\nrunning {} {}", chosen.len(), if chosen.len() == 1 { "test" } else { "tests" });
    let results = play_all(&chosen, &options);
    let count = |kind: fn(&Verdict) -> bool| results.iter().filter(|(_, verdict)| kind(verdict)).count();
    let (passed, skipped) =
        (count(|v| matches!(v, Verdict::Passed)), count(|v| matches!(v, Verdict::Skipped(_))));
    let failed = results.len() - passed - skipped;
    if failed > 0 {
        println!("\nfailures:\n");
        for (scenario, verdict) in &results {
            if let Verdict::Failed(output) = verdict {
                println!("---- {} ----\n{}\n\n{}", scenario.name, scenario.story, output.trim_end());
            }
        }
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        scenarios.len() - chosen.len(),
        start.elapsed().as_secs_f64(),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED as u8) }
}

#[derive(Debug)]
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

/// How one play ended.
#[derive(Debug)]
enum Play {
    Passed,
    Skipped(String),
    Failed(String),
    /// It found that policy was not enforced.
    Breached(String),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    filters: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    nocapture: bool,
    threads: Option<usize>,
    no_skip: bool,
    /// Set for a second play that has to end in a breach.
    refuted_by: Option<&'static str>,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            no_skip: env::var_os("AQUIFER_NO_SKIP").is_some_and(|value| value == "1"),
            ..Self::default()
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                _ => (argument, None),
            };
            let mut value_of = |flag: &str| {
                value.clone().or_else(|| arguments.next()).ok_or_else(|| format!("{flag} needs a value"))
            };
            match flag.as_str() {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--nocapture" | "--no-capture" => options.nocapture = true,
                "--skip" => options.skipped.push(value_of("--skip")?),
                "--test-threads" => {
                    let threads = value_of("--test-threads")?;
                    options.threads = Some(
                        threads
                            .parse()
                            .ok()
                            .filter(|&count| count > 0)
                            .ok_or_else(|| format!("--test-threads {threads} is no number above 0"))?,
                    );
                }
                "--format" | "--color" | "--logfile" | "-Z" => drop(value_of(&flag)?),
                // What `cargo test` may pass to all test programs alike, and what has no meaning here.
                _ if flag.starts_with('-') => {}
                _ => options.filters.push(flag),
            }
        }
        Ok(options)
    }

    fn chooses(&self, name: &str) -> bool {
        let matches =
            |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skipped.iter().any(matches)
    }
}

fn play_all<'a>(chosen: &[&'a Scenario], options: &Options) -> Vec<(&'a Scenario, Verdict)> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = options.threads.unwrap_or(cores).min(chosen.len());
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(&scenario) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = prove(scenario, options)
                        .unwrap_or_else(|error| Verdict::Failed(format!("cannot play it: {error:#}")));
                    if sender.send((scenario, verdict)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut results = Vec::new();
        for (scenario, verdict) in receiver {
            match &verdict {
                Verdict::Passed => println!("test {} ... ok", scenario.name),
                Verdict::Skipped(reason) => println!("test {} ... ignored, {reason}", scenario.name),
                Verdict::Failed(_) => println!("test {} ... FAILED", scenario.name),
            }
            // A pipe that is closed ends the run at the next println anyway.
            let _ = io::stdout().flush();
            results.push((scenario, verdict));
        }
        results
    })
}

/// Plays one scenario, and where it has to be refuted, a second time.
fn prove(scenario: &Scenario, options: &Options) -> Result<Verdict> {
    let failed = |text: String| Ok(Verdict::Failed(text));
    match (perform(scenario, options, None)?, options.refuted_by) {
        (Play::Skipped(reason), _) if options.no_skip => {
            return failed(format!("skipped although AQUIFER_NO_SKIP=1: {reason}"));
        }
        (Play::Skipped(reason), _) => return Ok(Verdict::Skipped(reason)),
        (Play::Failed(output) | Play::Breached(output), _) => return failed(output),
        (Play::Passed, None) => return Ok(Verdict::Passed),
        (Play::Passed, Some(_)) => {}
    }
    let variable = options.refuted_by.unwrap_or_default();
    match perform(scenario, options, options.refuted_by)? {
        Play::Breached(_) => Ok(Verdict::Passed),
        Play::Passed => {
            failed(format!("it passes with {variable}=1 too: it does not prove that policy is enforced"))
        }
        Play::Failed(output) => failed(format!(
            "with {variable}=1 it has to end because policy was not enforced, but it ended so:\n{output}"
        )),
        Play::Skipped(reason) => {
            failed(format!("with {variable}=1 it was skipped, without it was not: {reason}"))
        }
    }
}

/// Plays one scenario in a new sandbox, with a variable set to 1 for all its processes.
fn perform(scenario: &Scenario, options: &Options, variable: Option<&str>) -> Result<Play> {
    let mut output = tempfile::tempfile().context("cannot make a file for its output")?;
    let mut command = sandbox::command()?;
    command.env(NAME, scenario.name).stdin(Stdio::null());
    command.envs(variable.map(|variable| (variable, "1")));
    if !options.nocapture {
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
    }
    let mut child = command.spawn().context("cannot start it")?;
    let end = Instant::now() + HARD_DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            break child.wait()?;
        }
        thread::sleep(Duration::from_millis(10));
    };
    output.rewind()?;
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match status.code() {
        Some(0) => Play::Passed,
        Some(SKIPPED | sandbox::NO_SANDBOX) => {
            let reason = text.trim_end().lines().next_back().unwrap_or("no reason given").to_owned();
            Play::Skipped(reason)
        }
        Some(FAILED) => Play::Failed(text),
        Some(BREACHED) => Play::Breached(text),
        _ => Play::Failed(format!("{text}\nits process ended with {status}")),
    })
}

/// The process inside the sandbox: plays the scenario that the environment names and returns the exit code.
fn play(scenarios: &[Scenario]) -> i32 {
    let name = env::var(NAME).unwrap_or_default();
    let Some(scenario) = scenarios.iter().find(|scenario| scenario.name == name) else {
        eprintln!("no scenario {name:?} in this program");
        return FAILED;
    };
    let dir = PathBuf::from("/run/scenario");
    if let Err(error) = fs::create_dir_all(&dir) {
        eprintln!("cannot make {}: {error}", dir.display());
        return FAILED;
    }
    if let Err(error) = aquifer_sys::process::raise_nofile() {
        eprintln!("cannot raise the limit of open files: {error}");
    }
    let end = Arc::new(Mutex::new(Instant::now() + DEADLINE));
    let mut stage = Stage { name, dir: dir.clone(), end: Arc::clone(&end) };
    watch(end, dir.clone());
    let played = panic::catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut stage)));
    match played {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            if let Some(Skip(reason)) = error.downcast_ref() {
                eprintln!("{reason}");
                return SKIPPED;
            }
            show_logs(&dir);
            // Without the backtrace that `{:?}` may add: a scenario's errors say where in the story it is.
            let reasons: Vec<_> = error.chain().map(ToString::to_string).collect();
            eprintln!("failed: {}", reasons.join("\n  because: "));
            if error.downcast_ref::<Breach>().is_some() { BREACHED } else { FAILED }
        }
        Err(panic) => {
            show_logs(&dir);
            eprintln!("panicked: {}", message(&*panic));
            FAILED
        }
    }
}

/// Ends the process, with the logs shown, when the deadline is over.
fn watch(end: Arc<Mutex<Instant>>, dir: PathBuf) {
    thread::spawn(move || {
        let start = Instant::now();
        loop {
            let end = *end.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(left) = end.checked_duration_since(Instant::now()) else { break };
            // Short naps, because the deadline may move.
            thread::sleep(left.min(Duration::from_millis(100)));
        }
        show_logs(&dir);
        eprintln!("failed: its deadline passed after {:?}", start.elapsed());
        process::exit(FAILED);
    });
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Prints the end of each log below `dir`.
fn show_logs(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            show_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            println!("==== last lines of {} ({} in all)", path.display(), lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                println!("{line}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Options {
        Options::parse(arguments.iter().map(|&argument| argument.to_owned())).unwrap()
    }

    #[test]
    fn arguments_of_cargo_test_are_understood() {
        let options = parse(&[
            "drain",
            "--test-threads=3",
            "--skip",
            "slow",
            "--exact",
            "--quiet",
            "--format",
            "pretty",
        ]);
        assert_eq!((options.threads, options.exact), (Some(3), true));
        assert_eq!((options.filters, options.skipped), (vec!["drain".to_owned()], vec!["slow".to_owned()]));
        Options::parse(["--test-threads", "no"].map(String::from).into_iter()).unwrap_err();
        Options::parse(["--skip"].map(String::from).into_iter()).unwrap_err();
    }

    #[test]
    fn filters_choose_by_part_or_whole() {
        assert!(parse(&["half"]).chooses("half_close"));
        assert!(!parse(&["half", "--exact"]).chooses("half_close"));
        assert!(!parse(&["--skip", "half"]).chooses("half_close"));
        assert!(parse(&[]).chooses("half_close"));
    }
}
