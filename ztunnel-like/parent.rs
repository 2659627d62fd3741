//! The parent: holds the descriptors of what is enrolled, starts the worker again when it dies, and carries no traffic.

mod claim;
mod lock;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aquifer_sys::fdpass::{self, AsyncChannel, Message};
use aquifer_sys::memory::Rest;
use aquifer_sys::rules;
use nix::sys::signal::{Signal, kill};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as TokioSignal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use self::claim::{Claim, SUCCESSION};
pub use self::lock::NodeLock;
use crate::config::{NodeConfig, Origin, Pages};
use crate::enrolment::{Enrolment, EnrolmentRecord};
use crate::protocol::{ToParent, ToWorker, decode, encode};
use crate::succession::{self, Before, Next};

/// A worker that lived at least this long is replaced at once; one that dies sooner waits, twice as long each time.
const STABLE: Duration = Duration::from_secs(5);
/// Longest wait before a worker that keeps dying is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Pause between two looks at whether this process is at rest.
const LOOK: Duration = Duration::from_secs(2);
/// How long a second worker may take until it serves.
const UPGRADE: Duration = Duration::from_secs(10);
/// How long a process that is to take over waits for one that ends, or has no door.
const PLACE: Duration = Duration::from_secs(20);
/// See [`Parent::hesitated`]. A pod that replaces a deleted one needs a second or two to come.
const HESITATION: Duration = Duration::from_secs(5);
/// Pause between two looks of a process that was succeeded at whether the node is served.
const DESERTED: Duration = Duration::from_secs(2);
/// Pause between two tries of it.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// How long a worker that closed its channel may take to write its last lines.
const LAST_WORDS: Duration = Duration::from_secs(3);

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
    let (lock, before) = take_place(&config).await?;
    let pages = bind_pages(&config.pages)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut leave = signal(SignalKind::user_defined2())?;

    let recorded = lock.as_ref().map(NodeLock::recorded).unwrap_or_default();
    let mut parent = Parent {
        config,
        command,
        lock,
        pages,
        enrolments: BTreeMap::new(),
        recorded,
        restarts: 0,
        installed: true,
    };
    let mut worker = match before {
        None => parent.start().await?,
        Some((before, enrolments)) => parent.succeed(before, enrolments).await?,
    };
    let mut claims = parent.door();
    let mut next: Option<Claim> = None;
    // When this process was told to end.
    let mut stop: Option<tokio::time::Instant> = None;
    let mut retiring: Option<Worker> = None;
    let mut pause = Duration::ZERO;
    let (mut rest, mut look) = (Rest::default(), tokio::time::interval(LOOK));
    loop {
        tokio::select! {
            _ = look.tick() => rest.tick(),
            message = worker.channel.recv() => match message {
                Ok(Some(message)) => {
                    // What is enrolled now would not be in what was given: the next process enrols it.
                    if !next.as_mut().is_some_and(|claim| claim.withhold(&message)) {
                        parent.answer(&worker, message).await;
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
            Some(come) = claims.recv(), if next.is_none() => {
                info!(pid = come.pid, "another process wants to take this node over");
                next = Claim::grant(come, &parent.enrolments).await;
            }
            end = Claim::end(&mut next) => {
                let Some(claim) = next.take() else { continue };
                match end {
                    Ok(()) => {
                        worker.say(&ToWorker::Drain { replaced: true }, &[]).await;
                        info!(pid = claim.next.pid, "it serves this node now; the last connections are served here");
                        let told = stop.is_some() || !parent.config.take_over;
                        let config = parent.config.clone();
                        parent.give_up(claim.next).await;
                        retire(&config, worker, retiring, told, &mut terminate, &mut interrupt).await;
                        return Ok(());
                    }
                    Err(error) => {
                        warn!(%error, pid = claim.next.pid, "it did not take over; this process goes on");
                        for message in claim.withheld {
                            parent.answer(&worker, message).await;
                        }
                    }
                }
            }
            _ = terminate.recv() => match stop {
                None => stop = Some(tokio::time::Instant::now()),
                Some(_) => break,
            },
            // A next process may be here already: a node that ends before that one serves would be one that refuses.
            () = parent.hesitated(stop), if stop.is_some() && next.is_none() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if retiring.is_some() || next.is_some() {
                    warn!("an upgrade is under way: the worker before it still serves connections");
                    continue;
                }
                // The first serves until the second does: an upgrade to a program that does not run changes nothing.
                match parent.upgrade(UPGRADE).await {
                    Ok(next) => {
                        worker.say(&ToWorker::Drain { replaced: true }, &[]).await;
                        retiring = Some(std::mem::replace(&mut worker, next));
                    }
                    Err(error) => error!(error = format!("{error:#}"), "no upgrade: the worker of before goes on"),
                }
            }
            _ = leave.recv() => {
                return parent.leave(&mut worker).await;
            }
        }
    }

    if !parent.installed {
        info!("the mesh is removed from the cluster");
        parent.leave(&mut worker).await?;
        if let Some(lock) = parent.lock {
            lock.remove_traces(&parent.config.run_dir, &parent.config.node);
        }
        return Ok(());
    }
    info!(drain = ?parent.config.carry.drain, "stopping: no new connections, the last ones are served; a second signal ends at once");
    // Our copies of the listeners go first: with the worker's, the pods' ports close, and the rules refuse what comes.
    parent.enrolments.clear();
    worker.say(&ToWorker::Drain { replaced: false }, &[]).await;
    retire(&parent.config, worker, retiring, true, &mut terminate, &mut interrupt).await;
    Ok(())
}

/// The lock of the node; or, where another process has it and is to be succeeded, that process and what it has enrolled.
async fn take_place(
    config: &NodeConfig,
) -> anyhow::Result<(Option<NodeLock>, Option<(Before, Vec<Enrolment>)>)> {
    let door = succession::door(&config.run_dir, &config.node);
    let until = Instant::now() + PLACE;
    loop {
        let taken = match NodeLock::take(&config.run_dir, &config.node) {
            Ok(lock) => return Ok((Some(lock), None)),
            Err(taken) if config.take_over => taken,
            Err(taken) => return Err(taken),
        };
        match Before::claim(&door).await {
            Ok(before) => return Ok((None, Some(before))),
            Err(why) if Instant::now() > until => {
                return Err(taken.context(format!("and it gives nothing up ({why:#})")));
            }
            Err(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    }
}

/// Returns when no process serves the node any more. Looks for the first time when the one that took over has its lock for long.
async fn deserted(config: &NodeConfig) {
    loop {
        tokio::time::sleep(DESERTED).await;
        if NodeLock::holder(&config.run_dir, &config.node).is_none() {
            return;
        }
    }
}

/// Waits until workers that drain have served their last connections, and, where nobody has told this process to end, until
/// somebody does. A signal more ends at once.
async fn retire(
    config: &NodeConfig,
    worker: Worker,
    retiring: Option<Worker>,
    mut told: bool,
    terminate: &mut TokioSignal,
    interrupt: &mut TokioSignal,
) {
    let mut last = vec![worker];
    last.extend(retiring);
    loop {
        let served = async {
            for worker in &mut last {
                worker.child.wait().await.ok();
            }
            if !told {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = served => return,
            () = deserted(config), if !told => {
                warn!("the process that took over is gone, and nobody serves this node: this process ends, to be started anew");
                break;
            }
            _ = terminate.recv() => match told {
                false => told = true,
                true => break,
            },
            _ = interrupt.recv() => break,
        }
    }
    for worker in &mut last {
        worker.child.kill().await.ok();
    }
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
    lock.forget();
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
    /// None until the process that serves has given it up.
    lock: Option<NodeLock>,
    pages: Vec<TcpListener>,
    enrolments: BTreeMap<String, Enrolment>,
    /// What an earlier node process left, until a worker has compared it with the mesh.
    recorded: Vec<EnrolmentRecord>,
    restarts: u64,
    /// Whether the mesh is there, as far as the worker knows.
    installed: bool,
}

struct Worker {
    child: Child,
    channel: AsyncChannel,
    started: Instant,
}

impl Parent {
    /// Has the worker un-enrol all pods.
    async fn leave(&mut self, worker: &mut Worker) -> anyhow::Result<()> {
        info!("leaving: all pods are un-enrolled");
        worker.say(&ToWorker::Leave, &[]).await;
        // The worker ends when the last rule is gone; its Forgets are read until then.
        while let Ok(Some((bytes, descriptors))) = worker.channel.recv().await {
            self.hear(&bytes, descriptors);
        }
        worker.end().await?;
        Ok(())
    }

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

    /// Starts a worker on what another process has enrolled, and has that one give the node up once it serves.
    async fn succeed(&mut self, before: Before, enrolments: Vec<Enrolment>) -> anyhow::Result<Worker> {
        info!(enrolments = enrolments.len(), "another process serves this node: taking over");
        self.enrolments = enrolments.into_iter().map(|it| (it.uid.to_string(), it)).collect();
        let worker = self.upgrade(SUCCESSION).await?;
        // One that is gone has given up as well: the lock tells.
        let given = before.serving().await;
        match NodeLock::take(&self.config.run_dir, &self.config.node) {
            Ok(lock) => self.lock = Some(lock),
            Err(taken) => {
                return Err(given.err().map_or(taken, |why| why.context("the node was not given up")));
            }
        }
        self.save();
        info!("this process serves the node now");
        Ok(worker)
    }

    /// Waits for as long as this process goes on serving after it was told to end. In a cluster that may be because its pod is replaced, and
    /// then the next comes soon and takes over; or because the mesh is removed, which is heard of at about the same time.
    async fn hesitated(&self, told: Option<tokio::time::Instant>) {
        let replaced = matches!(self.config.origin, Origin::Controller { .. }) && self.config.take_over;
        if let Some(told) = told
            && replaced
            && self.installed
        {
            sleep_until(told + HESITATION).await;
        }
    }

    /// Opens the door to those that will take over. Without one nothing is worse than before there were any.
    fn door(&self) -> mpsc::Receiver<Next> {
        let path = succession::door(&self.config.run_dir, &self.config.node);
        succession::open(&path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "no other process can take over from this one");
            mpsc::channel(1).1
        })
    }

    /// Leaves the node to another process, which has descriptors of its own of all that is enrolled.
    async fn give_up(self, next: Next) {
        let Self { lock, enrolments, .. } = self;
        drop(enrolments);
        drop(lock);
        if let Err(error) = next.yours().await {
            warn!(%error, "the process that took over does not hear");
        }
    }

    /// Hears a worker, and answers where an answer is due.
    async fn answer(&mut self, worker: &Worker, (bytes, descriptors): Message) {
        if let Some(reply) = self.hear(&bytes, descriptors) {
            worker.say(&reply, &[]).await;
        }
    }

    /// Starts a second worker and waits until it serves.
    async fn upgrade(&mut self, patience: Duration) -> anyhow::Result<Worker> {
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
        tokio::time::timeout(patience, ready).await.context("the new worker does not get ready")??;
        Ok(worker)
    }

    /// Takes a worker's message; a reply, where one is due.
    fn hear(&mut self, bytes: &[u8], descriptors: Vec<std::os::fd::OwnedFd>) -> Option<ToWorker> {
        match decode::<ToParent>(bytes) {
            Ok(ToParent::Keep(record)) => match Enrolment::from_parts(record, descriptors) {
                Ok(enrolment) => {
                    let uid = enrolment.uid.to_string();
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
            Ok(ToParent::Installed { installed }) => {
                self.installed = installed;
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
        let Some(lock) = &self.lock else { return };
        let earlier = self.recorded.iter().filter(|record| !self.enrolments.contains_key(&record.uid));
        let records: Vec<_> =
            self.enrolments.values().map(Enrolment::record).chain(earlier.cloned()).collect();
        if let Err(error) = lock.write_record(&records) {
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
