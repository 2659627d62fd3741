//! The parent: holds the descriptors of what is enrolled, starts the worker again when it dies, and carries no traffic.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aquifer_sys::fdpass::{self, AsyncChannel};
use aquifer_sys::memory::Rest;
use aquifer_sys::rules;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::config::{NodeConfig, Pages};
use crate::enrolment::{Enrolment, EnrolmentRecord};
use crate::protocol::{ToParent, ToWorker, decode, encode};

/// A worker that lived at least this long is replaced at once; one that dies sooner waits, twice as long each time.
const STABLE: Duration = Duration::from_secs(5);
/// Longest wait before a worker that keeps dying is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Pause between two looks at whether this process is at rest.
const LOOK: Duration = Duration::from_secs(2);
/// How long a second worker may take until it serves.
const UPGRADE: Duration = Duration::from_secs(10);
/// How long a worker that closed its channel may take to write its last lines.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The one lock of a node name in a run directory, with the pid of who holds it.
#[derive(Debug)]
pub struct NodeLock {
    _file: Flock<File>,
    record: PathBuf,
}

impl NodeLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another process serves this node (it is named), or the directory cannot be written.
    pub fn take(run_dir: &Path, node: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(run_dir)
            .with_context(|| format!("run directory {}: choose another with --run-dir", run_dir.display()))?;
        let path = run_dir.join(format!("{node}.lock"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("lock file {}", path.display()))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, _)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).ok();
                bail!(
                    "node {node} is already served by process {} (lock {}): stop that one first, or give this one another --node or --run-dir",
                    holder.trim(),
                    path.display()
                );
            }
        };
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file, record: run_dir.join(format!("{node}.enrolled.json")) })
    }

    /// Who holds the lock, if anybody does.
    pub fn holder(run_dir: &Path, node: &str) -> Option<Pid> {
        let mut file = File::open(run_dir.join(format!("{node}.lock"))).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => None,
            Err(_) => text.trim().parse().ok().map(Pid::from_raw),
        }
    }

    /// What was enrolled when the record was last written.
    pub fn recorded(&self) -> Vec<EnrolmentRecord> {
        std::fs::read(&self.record)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Writes down what is enrolled, by rename: the next node process and `--leave` without one read it.
    fn write_record(&self, records: &[EnrolmentRecord]) -> std::io::Result<()> {
        let draft = self.record.with_extension("draft");
        std::fs::write(&draft, serde_json::to_vec_pretty(&records)?)?;
        std::fs::rename(draft, &self.record)
    }
}

/// How a worker process is started: program and arguments; the channel is its standard input.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program, looked up again at each start, so that an upgraded binary is the one that runs.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Serves a node until it is told to stop.
///
/// SIGTERM and SIGINT drain, a second one ends at once; SIGHUP starts a second worker and drains the first (an upgrade);
/// SIGUSR2 un-enrols all pods and ends.
///
/// # Errors
/// The node's lock or a page address is taken, or the first worker cannot be started.
pub async fn run(config: NodeConfig, command: WorkerCommand) -> anyhow::Result<()> {
    let lock = NodeLock::take(&config.run_dir, &config.node)?;
    let pages = bind_pages(&config.pages)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut leave = signal(SignalKind::user_defined2())?;

    let recorded = lock.recorded();
    let mut parent =
        Parent { config, command, lock, pages, enrolments: BTreeMap::new(), recorded, restarts: 0 };
    let mut worker = parent.start().await?;
    let mut retiring: Option<Worker> = None;
    let mut pause = Duration::ZERO;
    let (mut rest, mut look) = (Rest::default(), tokio::time::interval(LOOK));
    loop {
        tokio::select! {
            _ = look.tick() => rest.tick(),
            message = worker.channel.recv() => match message {
                Ok(Some((bytes, descriptors))) => {
                    if let Some(reply) = parent.hear(&bytes, descriptors) {
                        worker.say(&reply, &[]).await;
                    }
                }
                Ok(None) | Err(_) => {
                    let status = worker.end().await?;
                    parent.restarts += 1;
                    pause = if worker.started.elapsed() >= STABLE { Duration::ZERO } else { (pause * 2).max(Duration::from_millis(20)).min(LONGEST_PAUSE) };
                    error!(%status, restarts = parent.restarts, "the worker ended by itself; its connections were reset, its pods stay captured, a new one starts{}", after(pause));
                    tokio::time::sleep(pause).await;
                    worker = parent.start_again().await;
                }
            },
            status = wait(&mut retiring) => {
                info!(%status, "the worker before the upgrade has served its last connection");
                retiring = None;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if retiring.is_some() {
                    warn!("an upgrade is under way: the worker before it still serves connections");
                    continue;
                }
                // The first serves until the second does: an upgrade to a program that does not run changes nothing.
                match parent.upgrade().await {
                    Ok(next) => {
                        worker.say(&ToWorker::Drain { replaced: true }, &[]).await;
                        retiring = Some(std::mem::replace(&mut worker, next));
                    }
                    Err(error) => error!(error = format!("{error:#}"), "no upgrade: the worker of before goes on"),
                }
            }
            _ = leave.recv() => {
                info!("leaving: all pods are un-enrolled");
                worker.say(&ToWorker::Leave, &[]).await;
                // The worker ends when the last rule is gone; its Forgets are read until then.
                while let Ok(Some((bytes, descriptors))) = worker.channel.recv().await {
                    parent.hear(&bytes, descriptors);
                }
                worker.end().await?;
                return Ok(());
            }
        }
    }

    info!(drain = ?parent.config.carry.drain, "stopping: no new connections, the last ones are served; a second signal ends at once");
    // Our copies of the listeners go first: with the worker's, the pods' ports close, and the rules refuse what comes.
    parent.enrolments.clear();
    worker.say(&ToWorker::Drain { replaced: false }, &[]).await;
    let mut last = vec![worker];
    last.extend(retiring);
    let all = async {
        for worker in &mut last {
            worker.child.wait().await.ok();
        }
    };
    tokio::select! {
        () = all => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    for worker in &mut last {
        worker.child.kill().await.ok();
    }
    Ok(())
}

/// Un-enrols all pods of a node: through the running node, or by the record that the last one left.
///
/// # Errors
/// A namespace cannot be entered, or rules cannot be removed: what was left standing is named.
pub fn leave(config: &NodeConfig, patience: Duration) -> anyhow::Result<()> {
    if let Some(holder) = NodeLock::holder(&config.run_dir, &config.node) {
        kill(holder, Signal::SIGUSR2).with_context(|| format!("process {holder}, which serves the node"))?;
        let deadline = Instant::now() + patience;
        while NodeLock::holder(&config.run_dir, &config.node).is_some() {
            if Instant::now() > deadline {
                bail!(
                    "process {holder} still has connections to serve after {patience:?}: un-enrolment goes on"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // Without a node process, or where it ended before it was through.
    let lock = NodeLock::take(&config.run_dir, &config.node)?;
    for record in lock.recorded() {
        if !record.path.exists() {
            continue;
        }
        let netns = aquifer_sys::NetNs::open(&record.path)
            .with_context(|| format!("network namespace {}", record.path.display()))?;
        rules::remove(&netns, Some(record.generation))
            .with_context(|| format!("packet rules in {}", record.path.display()))?;
        println!("un-enrolled pod {} ({})", record.uid, record.path.display());
    }
    std::fs::remove_file(&lock.record).ok();
    for removed in crate::cni::remove(config)
        .context("the CNI plug-in stays, and pods that begin will wait for a node")?
    {
        println!("took the CNI plug-in out of {}", removed.display());
    }
    Ok(())
}

struct Parent {
    config: NodeConfig,
    command: WorkerCommand,
    lock: NodeLock,
    pages: Vec<TcpListener>,
    enrolments: BTreeMap<String, Enrolment>,
    /// What an earlier node process left, until a worker has compared it with the mesh.
    recorded: Vec<EnrolmentRecord>,
    restarts: u64,
}

struct Worker {
    child: Child,
    channel: AsyncChannel,
    started: Instant,
}

impl Parent {
    /// Starts a worker and hands it everything that is enrolled.
    async fn start(&mut self) -> anyhow::Result<Worker> {
        let (ours, theirs) = fdpass::pair().context("socket pair to the worker")?;
        let child = Command::new(&self.command.program)
            .args(&self.command.arguments)
            .stdin(std::process::Stdio::from(theirs.into_fd()))
            .kill_on_drop(true)
            // A Ctrl-C in the terminal is the parent's to hear: it drains the worker.
            .process_group(0)
            .spawn()
            .with_context(|| format!("worker {}", self.command.program.display()))?;
        let worker = Worker { child, channel: AsyncChannel::new(ours)?, started: Instant::now() };
        let pages: Vec<BorrowedFd<'_>> = self.pages.iter().map(AsFd::as_fd).collect();
        let start = ToWorker::Start {
            config: Box::new(self.config.clone()),
            enrolments: self.enrolments.len(),
            recorded: self.recorded.len(),
            restarts: self.restarts,
        };
        worker.say(&start, &pages).await;
        for enrolment in self.enrolments.values() {
            worker.say(&ToWorker::Adopt(enrolment.record()), &enrolment.descriptors()).await;
        }
        for record in &self.recorded {
            worker.say(&ToWorker::Recorded(record.clone()), &[]).await;
        }
        Ok(worker)
    }

    /// Starts a worker in place of one that is gone, however often that takes: without one the node's pods are cut off.
    async fn start_again(&mut self) -> Worker {
        loop {
            match self.start().await {
                Ok(worker) => return worker,
                Err(error) => error!(
                    error = format!("{error:#}"),
                    "no worker can be started; tried again in {LONGEST_PAUSE:?}"
                ),
            }
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
    }

    /// Starts a second worker and waits until it serves.
    async fn upgrade(&mut self) -> anyhow::Result<Worker> {
        let worker = self.start().await?;
        let ready = async {
            while let Some((bytes, descriptors)) = worker.channel.recv().await? {
                let ready = matches!(decode(&bytes), Ok(ToParent::Ready));
                if let Some(reply) = self.hear(&bytes, descriptors) {
                    worker.say(&reply, &[]).await;
                }
                if ready {
                    return Ok(());
                }
            }
            bail!("it ended at once; its log says why")
        };
        tokio::time::timeout(UPGRADE, ready).await.context("the new worker does not get ready")??;
        Ok(worker)
    }

    /// Takes a worker's message; a reply, where one is due.
    fn hear(&mut self, bytes: &[u8], descriptors: Vec<std::os::fd::OwnedFd>) -> Option<ToWorker> {
        match decode::<ToParent>(bytes) {
            Ok(ToParent::Keep(record)) => match Enrolment::from_parts(record, descriptors) {
                Ok(enrolment) => {
                    let uid = enrolment.uid.as_str().to_owned();
                    self.enrolments.insert(uid.clone(), enrolment);
                    self.save();
                    Some(ToWorker::Kept { uid })
                }
                Err(error) => {
                    error!(%error, "the worker sent an enrolment that cannot be kept");
                    None
                }
            },
            Ok(ToParent::Forget { uid }) => {
                self.enrolments.remove(&uid);
                self.save();
                None
            }
            Ok(ToParent::Ready) => {
                if !std::mem::take(&mut self.recorded).is_empty() {
                    self.save();
                }
                None
            }
            Err(error) => {
                error!(%error, "the worker sent a message that is none");
                None
            }
        }
    }

    fn save(&self) {
        let earlier = self.recorded.iter().filter(|record| !self.enrolments.contains_key(&record.uid));
        let records: Vec<_> =
            self.enrolments.values().map(Enrolment::record).chain(earlier.cloned()).collect();
        if let Err(error) = self.lock.write_record(&records) {
            warn!(%error, "the record of enrolments cannot be written; what comes after this process will not know of the newest");
        }
    }
}

impl Worker {
    /// Waits for a worker that closed its channel; one that does not end by itself is killed, since its pods wait.
    async fn end(&mut self) -> std::io::Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(LAST_WORDS, self.child.wait()).await {
            return status;
        }
        warn!("the worker gave its channel up and goes on: killed");
        self.child.kill().await?;
        self.child.wait().await
    }

    /// Says something; a worker that is gone is noticed by the reading side.
    async fn say(&self, message: &ToWorker, descriptors: &[BorrowedFd<'_>]) {
        if let Err(error) = self.channel.send(&encode(message), descriptors).await {
            warn!(%error, "the worker does not hear");
        }
    }
}

async fn wait(worker: &mut Option<Worker>) -> ExitStatus {
    match worker {
        Some(worker) => match worker.child.wait().await {
            Ok(status) => status,
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn bind_pages(pages: &Pages) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |name: &str, address: Option<SocketAddr>| {
        address
            .map(|address| {
                TcpListener::bind(address).with_context(|| {
                    format!("--{name}-addr {address}: choose another, port 0, or `off` (two nodes of one machine run in a namespace each, or say which address is taken)")
                })
            })
            .transpose()
    };
    let pages = [bind("admin", pages.admin)?, bind("metrics", pages.metrics)?, bind("ready", pages.ready)?];
    for (name, page) in ["admin", "metrics", "ready"].iter().zip(&pages) {
        if let Some(page) = page {
            info!(page = name, address = %page.local_addr()?, "listening");
        }
    }
    Ok(pages.into_iter().flatten().collect())
}

fn after(pause: Duration) -> String {
    if pause.is_zero() { String::new() } else { format!(" in {pause:?}") }
}
