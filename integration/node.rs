//! A real `aquifer node` process in a node's namespace: started, watched, questioned, killed and started again.

mod flow;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aquifer_sys::NetNs;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use flow::FlowLog;
pub use flow::FlowRecord;

use crate::{
    client::{Conn, Reply},
    sandbox,
    wait::wait_for,
};

/// How long a node may take from its start until it is ready.
pub const START_LIMIT: Duration = Duration::from_secs(30);

/// Where each node serves, in its own namespace.
const ADMIN: &str = "127.0.0.1:15000";
const METRICS: &str = "127.0.0.1:15020";
const READY: &str = "127.0.0.1:15021";

/// Makes this program play the part of `aquifer` when a node is started from it.
const AS_PROGRAM: &str = "AQUIFER_AS_PROGRAM";

/// The program's own `main` can stand in for the binary; see [`or_program`].
static PROGRAM: AtomicBool = AtomicBool::new(false);

/// To be called first in the `main` of a test program that has `aquifer`'s `main` linked in: where the process was started
/// as a node, that is run and its code returned; otherwise nodes will be started from this program.
///
/// `cargo test` does not build another package's binary; this way scenarios always test the code they were built with.
pub fn or_program(program: impl FnOnce() -> std::process::ExitCode) -> Option<std::process::ExitCode> {
    if env::var_os(AS_PROGRAM).is_some() {
        return Some(program());
    }
    PROGRAM.store(true, Ordering::Relaxed);
    None
}

/// To be called by the `aquifer` program itself before it starts nodes: they are then this very file, whatever its name.
pub fn from_this_program() {
    PROGRAM.store(true, Ordering::Relaxed);
}

/// The `aquifer` program: `AQUIFER_BIN`; else this program where it can play it; else the file `aquifer` beside it.
fn program() -> Result<Command> {
    if let Some(path) = env::var_os("AQUIFER_BIN") {
        return Ok(Command::new(path));
    }
    let this = env::current_exe().context("cannot find this program's own file")?;
    if PROGRAM.load(Ordering::Relaxed) {
        let mut command = Command::new(this);
        command.env(AS_PROGRAM, "1");
        return Ok(command);
    }
    let found = this.ancestors().skip(1).take(2).map(|dir| dir.join("aquifer")).find(|file| file.is_file());
    match found {
        Some(file) => Ok(Command::new(file)),
        None => bail!(
            "the aquifer binary is not beside {}: build it with `cargo build -p aquifer`, or name it in AQUIFER_BIN",
            this.display()
        ),
    }
}

/// How a node is to be started.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Kubernetes name of the node.
    pub name: String,
    /// The namespace it runs in.
    pub ns: NetNs,
    /// Folder of manifests.
    pub manifests: PathBuf,
    /// Folder of the local CA.
    pub ca_dir: PathBuf,
    /// Folder for its sockets.
    pub run_dir: PathBuf,
    /// File that its output is appended to.
    pub log: PathBuf,
    /// Further arguments.
    pub args: Vec<String>,
    /// Further environment, such as `RUST_LOG`.
    pub env: Vec<(String, String)>,
    /// Limit of open files, soft and hard; `None` leaves the caller's.
    pub open_files: Option<u64>,
}

impl NodeConfig {
    fn command(&self) -> Result<Command> {
        let program = program()?;
        let mut command = match self.open_files {
            None => Command::new(program.get_program()),
            Some(limit) => {
                // The shell lowers its own limit and becomes the node.
                let mut shell = Command::new("/bin/sh");
                shell
                    .args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")])
                    .arg(program.get_program());
                shell
            }
        };
        command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        sandbox::outside(&mut command).args(["node", "--node", &self.name]);
        for (flag, path) in
            [("--manifests", &self.manifests), ("--ca-dir", &self.ca_dir), ("--run-dir", &self.run_dir)]
        {
            command.arg(flag).arg(path);
        }
        command.args([
            "--admin-addr",
            ADMIN,
            "--metrics-addr",
            "0.0.0.0:15020",
            "--ready-addr",
            "0.0.0.0:15021",
        ]);
        command.args(["--log-format", "json"]);
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        Ok(command)
    }
}

/// A running node; killed with its workers when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    config: NodeConfig,
    child: Child,
    flows: Mutex<FlowLog>,
    kept: bool,
}

impl NodeProcess {
    /// Starts it; [`NodeProcess::wait_ready`] tells when it serves.
    pub fn start(config: NodeConfig) -> Result<Self> {
        let child = spawn(&config)?;
        let flows = Mutex::new(FlowLog::open(&config.log)?);
        Ok(Self { config, child, flows, kept: false })
    }

    /// Kubernetes name of the node.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// How it was started; changes hold from the next [`NodeProcess::restart`].
    pub fn config_mut(&mut self) -> &mut NodeConfig {
        &mut self.config
    }

    /// Process id of the parent.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Process ids of the workers, the parent's children.
    pub fn workers(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.config.log
    }

    /// Waits until `/readyz` answers 200. Fails at once where the process has ended.
    pub fn wait_ready(&mut self, deadline: Duration) -> Result<()> {
        let name = self.config.name.clone();
        wait_for(&format!("{name} to be ready"), deadline, || {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(&self.config.log).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(10).collect();
                bail!(
                    "{name} ended with {status} before it was ready; its log ends:\n{}",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
            // Nobody listens yet, or not all pods are ready: the same to the one who waits.
            let answer = self.http(READY, "GET", "/readyz");
            Ok(answer.is_ok_and(|reply| reply.status == 200).then_some(()))
        })
        .with_context(|| match self.http(READY, "GET", "/readyz?verbose") {
            Ok(reply) => format!("/readyz says {}: {}", reply.status, String::from_utf8_lossy(&reply.body)),
            Err(error) => format!("/readyz does not answer: {error:#}"),
        })
    }

    /// What `/readyz?verbose` says now.
    pub fn readiness(&self) -> Result<Reply> {
        self.http(READY, "GET", "/readyz?verbose")
    }

    /// An admin page as JSON.
    pub fn admin(&self, path: &str) -> Result<serde_json::Value> {
        let reply = self.http(ADMIN, "GET", path)?;
        ensure!(
            reply.status == 200,
            "{path} answered {}: {}",
            reply.status,
            String::from_utf8_lossy(&reply.body)
        );
        Ok(serde_json::from_slice(&reply.body)?)
    }

    /// An order to the admin server, such as `/logging?level=debug`.
    pub fn admin_post(&self, path: &str) -> Result<Reply> {
        self.http(ADMIN, "POST", path)
    }

    /// All metrics now.
    pub fn metrics(&self) -> Result<Metrics> {
        let reply = self.http(METRICS, "GET", "/metrics")?;
        ensure!(reply.status == 200, "/metrics answered {}", reply.status);
        Ok(Metrics { text: String::from_utf8(reply.body)? })
    }

    /// Flow records so far, oldest first; the last 200,000.
    pub fn flows(&self) -> Result<Vec<FlowRecord>> {
        let mut log = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(log.read()?.iter().cloned().collect())
    }

    /// Waits for a flow record that `fits`, whenever it was written, and returns the last such.
    pub fn wait_flow(&self, deadline: Duration, fits: impl Fn(&FlowRecord) -> bool) -> Result<FlowRecord> {
        wait_for("a flow record", deadline, || {
            let mut log = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(log.read()?.iter().rfind(|flow| fits(flow)).cloned())
        })
        .with_context(|| {
            let flows = self.flows().unwrap_or_default();
            let last: Vec<_> = flows.iter().rev().take(20).map(ToString::to_string).collect();
            format!("{} wrote {} records, newest first:\n  {}", self.name(), flows.len(), last.join("\n  "))
        })
    }

    /// Forgets the flow records so far.
    pub fn forget_flows(&self) -> Result<()> {
        let mut log = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        log.read()?.clear();
        Ok(())
    }

    /// Kills the workers, not the parent: a crash of the data plane.
    pub fn kill_workers(&self) -> Result<()> {
        let workers = self.workers();
        ensure!(!workers.is_empty(), "{} has no worker to kill", self.name());
        workers.into_iter().try_for_each(|pid| signal(pid, Signal::SIGKILL))
    }

    /// Kills parent and workers at once, and waits until they are gone: a crash of the whole node proxy.
    pub fn kill(&mut self) -> Result<()> {
        let workers = self.workers();
        let killed = self.child.kill().and_then(|()| self.child.wait());
        for &pid in &workers {
            // It may have died with its parent.
            let _ = signal(pid, Signal::SIGKILL);
        }
        killed?;
        wait_for("the workers to be gone", Duration::from_secs(5), || {
            Ok(workers.iter().all(|&pid| is_gone(pid)).then_some(()))
        })
    }

    /// Sends SIGTERM: drain, then end.
    pub fn terminate(&self) -> Result<()> {
        signal(self.pid(), Signal::SIGTERM)
    }

    /// Waits until the parent has ended.
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.config.name);
        wait_for(&what, deadline, || Ok(self.child.try_wait()?))
    }

    /// Starts it again after it ended; flow records go on.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_some(), "{} still runs", self.config.name);
        self.child = spawn(&self.config)?;
        Ok(())
    }

    fn http(&self, to: &str, method: &str, path: &str) -> Result<Reply> {
        let to: SocketAddr = to.parse()?;
        Ok(Conn::open(&self.config.ns, to, Duration::from_secs(5))?.request(method, path)?)
    }
}

impl NodeProcess {
    /// Leaves it running when this value goes.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Whoever is gone already is what this is for. It waits for the others, whose addresses are for the next.
        let _ = self.kill();
    }
}

/// A page of metrics in Prometheus' text format.
#[derive(Clone, Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// The page.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sum of all series of a metric that have all these labels; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name)
            .filter(|(series, _)| {
                labels.iter().all(|(label, value)| {
                    let wanted = format!("{label}=\"{value}\"");
                    // A label's name begins after `{` or `,`.
                    series.match_indices(&wanted).any(|(at, _)| series[..at].ends_with(['{', ',']))
                })
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// Number of series of a metric.
    pub fn count(&self, name: &str) -> usize {
        self.series(name).count()
    }

    fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(_) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.split(' ').next()?.parse().ok()?))
        })
    }
}

fn spawn(config: &NodeConfig) -> Result<Child> {
    fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("cannot make {}", config.run_dir.display()))?;
    // Straight to the file: a node that outlives its starter, or writes much, never meets a closed or full pipe.
    let log = fs::OpenOptions::new().create(true).append(true).open(&config.log)?;
    let mut command = config.command()?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A child starts in the network namespace of the thread that forks it.
    config
        .ns
        .run(|| command.spawn())
        .with_context(|| format!("cannot start {}", command.get_program().display()))
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid.cast_signed()), signal).with_context(|| format!("cannot send {signal} to {pid}"))
}

/// Children of a process, by the kernel's list of each of its threads.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Whether a process has ended with all its threads, reaped or not. A first thread that is dead says nothing of the others,
/// which may still hold the listeners.
fn is_gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let dead = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
    dead && fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_label() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab{x=\"1\"} 100\na{xx=\"1\"} 50\nb 7\n";
        let metrics = Metrics { text: text.into() };
        assert_eq!(metrics.sum("a", &[("x", "1")]), 7.0);
        assert_eq!(metrics.sum("a", &[("x", "1"), ("y", "3")]), 4.0);
        assert_eq!(metrics.sum("b", &[]), 7.0);
        assert_eq!((metrics.count("a"), metrics.sum("none", &[])), (3, 0.0));
    }

    #[test]
    fn children_and_ends_are_seen() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        assert!(!is_gone(child.id()));
        child.kill().unwrap();
        wait_for("the zombie", Duration::from_secs(5), || Ok(is_gone(child.id()).then_some(()))).unwrap();
        child.wait().unwrap();
        assert!(is_gone(child.id()));
    }
}
