//! The parent: holds the descriptors of what is enrolled, starts the worker again when it dies, and carries no traffic.

mod child;
mod claim;
mod leave;
mod lock;
mod pages;
mod place;
mod signals;
mod vault;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use aquifer_sys::fdpass::Message;
use aquifer_sys::memory::Rest;
use aquifer_sys::rules;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use self::child::Worker;
use self::claim::{Claim, SUCCESSION};
pub use self::leave::leave;
pub use self::lock::NodeLock;
use self::place::Place;
use self::signals::{Signals, Told};
use self::vault::{Certificates, Vault};
use crate::config::{NodeConfig, Origin};
use crate::enrolment::{Enrolment, EnrolmentRecord};
use crate::protocol::{ToParent, ToWorker, decode};
use crate::succession::{self, Before, Next};

/// A worker that lived at least this long is replaced at once; one that dies sooner waits, twice as long each time.
const STABLE: Duration = Duration::from_secs(5);
/// Longest wait before a worker that keeps dying is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Certificates that are kept: one for each service account with a pod on this node, and kubelet runs some hundred pods.
const MOST_CERTIFICATES: usize = 1024;
/// Pause between two looks at whether this process is at rest.
const LOOK: Duration = Duration::from_secs(2);
/// How long a second worker may take until it serves.
const UPGRADE: Duration = Duration::from_secs(10);
/// See [`Parent::ends`]. A pod that replaces a deleted one needs a second or two to come.
const HESITATION: Duration = Duration::from_secs(5);
/// Pause between two looks of a process that was succeeded at whether the node is served.
const DESERTED: Duration = Duration::from_secs(2);

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
    let mut signals = Signals::listen()?;
    let mut parent = Parent::new(config, command);
    loop {
        let worker = tokio::select! {
            worker = parent.begin() => worker?,
            // Whoever serves goes on.
            () = signals.stop() => {
                parent.stop = Some(tokio::time::Instant::now());
                parent.linger(&mut signals).await;
                return Ok(());
            }
        };
        match parent.serve(worker, &mut signals).await? {
            Tenure::Over => return Ok(()),
            Tenure::HandedOver if parent.linger(&mut signals).await => {
                warn!(
                    "the process that took over is gone, and nobody serves this node: this process serves it again"
                );
            }
            Tenure::HandedOver => return Ok(()),
        }
    }
}

/// How serving ended.
enum Tenure {
    /// The process ends.
    Over,
    /// Another process serves the node; the last connections are still served here.
    HandedOver,
}

struct Parent {
    config: NodeConfig,
    command: WorkerCommand,
    /// While this process serves the node and has nobody to succeed.
    lock: Option<NodeLock>,
    pages: Vec<TcpListener>,
    enrolments: BTreeMap<String, Enrolment>,
    /// What an earlier node process left, until a worker has compared it with the mesh.
    recorded: Vec<EnrolmentRecord>,
    /// Private keys are here and in the worker alone, and sealed in the vault.
    certificates: Certificates,
    vault: Vault,
    restarts: u64,
    /// Whether the mesh is there, as far as the worker knows.
    installed: bool,
    /// Workers that serve their last connections.
    retiring: JoinSet<ExitStatus>,
    /// When this process was told to end.
    stop: Option<tokio::time::Instant>,
}

impl Parent {
    fn new(config: NodeConfig, command: WorkerCommand) -> Self {
        Self {
            vault: Vault::of(&config),
            config,
            command,
            lock: None,
            pages: Vec::new(),
            enrolments: BTreeMap::new(),
            recorded: Vec::new(),
            certificates: Certificates::new(),
            restarts: 0,
            installed: true,
            retiring: JoinSet::new(),
            stop: None,
        }
    }

    /// Waits until this process can serve the node, and starts its worker.
    async fn begin(&mut self) -> anyhow::Result<Worker> {
        let place = place::take(&self.config).await?;
        self.pages = pages::bind(&self.config.pages)?;
        self.certificates = self.vault.read();
        match place {
            Place::Free(lock) => {
                self.recorded = lock.recorded();
                self.own(lock);
                self.start(false).await
            }
            Place::From(before, enrolments) => self.succeed(before, enrolments).await,
        }
    }

    /// From now on the node is this process's.
    fn own(&mut self, lock: NodeLock) {
        if let Some(instance) = &self.config.instance
            && let Err(error) = lock.enter(instance)
        {
            warn!(%error, "should this process give the node away and be started again, it may take the node back");
        }
        self.lock = Some(lock);
    }

    async fn serve(&mut self, mut worker: Worker, signals: &mut Signals) -> anyhow::Result<Tenure> {
        let mut door = self.door();
        let mut next: Option<Claim> = None;
        let mut pause = Duration::ZERO;
        let (mut rest, mut look) = (Rest::default(), tokio::time::interval(LOOK));
        loop {
            let (ends, seal) = (self.ends(), self.vault.due());
            tokio::select! {
                _ = look.tick() => rest.tick(),
                () = until(seal) => self.vault.write(&self.certificates),
                message = worker.channel.recv() => match message {
                    Ok(Some(message)) => {
                        // What is enrolled now would not be in what was given: the next process enrols it.
                        if !next.as_mut().is_some_and(|claim| claim.withhold(&message)) {
                            self.answer(&worker, message).await;
                        }
                    }
                    Ok(None) | Err(_) => {
                        let status = worker.end().await?;
                        self.restarts += 1;
                        pause = if worker.started.elapsed() >= STABLE { Duration::ZERO } else { (pause * 2).max(Duration::from_millis(20)).min(LONGEST_PAUSE) };
                        error!(%status, restarts = self.restarts, "the worker ended by itself; its connections were reset, its pods stay captured, a new one starts{}", after(pause));
                        tokio::time::sleep(pause).await;
                        worker = self.start_again().await;
                    }
                },
                Some(ended) = self.retiring.join_next() => {
                    info!(status = %ended.unwrap_or_default(), "a worker of before has served its last connection");
                }
                Some(come) = door.recv() => match self.keeps_from(&come, next.as_ref()) {
                    Some(why) => {
                        info!(pid = %come.pid, why, "another process wants to take this node over, and is to wait");
                        come.wait(why).await;
                    }
                    None => {
                        info!(pid = %come.pid, "another process wants to take this node over");
                        next = Claim::grant(come, &self.enrolments).await;
                    }
                },
                end = Claim::end(&mut next) => {
                    let Some(claim) = next.take() else { continue };
                    match end {
                        Ok(()) => {
                            worker.say(&ToWorker::Drain { replaced: true }, &[]).await;
                            info!(pid = %claim.next.pid, "it serves this node now; the last connections are served here");
                            self.retire(worker);
                            self.give_up(claim.next).await;
                            return Ok(Tenure::HandedOver);
                        }
                        Err(error) => {
                            warn!(%error, pid = %claim.next.pid, "it did not take over; this process goes on");
                            for message in claim.withheld {
                                self.answer(&worker, message).await;
                            }
                        }
                    }
                }
                // A next process may be here already: a node that ends before that one serves would be one that refuses.
                () = until(ends), if next.is_none() => break,
                told = signals.told() => match told {
                    Told::Terminate if self.stop.is_none() => self.stop = Some(tokio::time::Instant::now()),
                    Told::Terminate | Told::Interrupt => break,
                    Told::Upgrade if !self.retiring.is_empty() || next.is_some() => {
                        warn!("an upgrade is under way: the worker before it still serves connections");
                    }
                    Told::Upgrade => {
                        // The first serves until the second does: an upgrade to a program that does not run changes nothing.
                        match self.upgrade(UPGRADE).await {
                            Ok(next) => {
                                worker.say(&ToWorker::Drain { replaced: true }, &[]).await;
                                self.retire(std::mem::replace(&mut worker, next));
                            }
                            Err(error) => error!(error = format!("{error:#}"), "no upgrade: the worker of before goes on"),
                        }
                    }
                    Told::Leave => {
                        info!("leaving: all pods are un-enrolled");
                        self.leave(worker, door, signals, false).await;
                        return Ok(Tenure::Over);
                    }
                }
            }
        }
        if self.installed {
            self.drain(worker, door, signals).await;
        } else {
            info!(patience = ?self.config.carry.drain_removed, "the mesh is removed from the cluster: all pods are un-enrolled");
            self.leave(worker, door, signals, true).await;
            if let Some(lock) = self.lock.take() {
                lock.remove_traces(&self.config.run_dir, &self.config.node);
            }
        }
        Ok(Tenure::Over)
    }

    /// Why somebody who wants to take over cannot now, if so.
    fn keeps_from(&self, come: &Next, next: Option<&Claim>) -> Option<&'static str> {
        if next.is_some() {
            return Some("another process takes the node over");
        }
        let (Some(own), Some(its), Some(lock)) = (&self.config.instance, &come.instance, &self.lock) else {
            return None;
        };
        lock.precedes(its, own).then_some("its instance served the node before this one took it over")
    }

    /// Takes no new connection and serves the last ones; a signal ends at once.
    async fn drain(&mut self, worker: Worker, mut door: mpsc::Receiver<Next>, signals: &mut Signals) {
        info!(drain = ?self.config.carry.drain, "stopping: no new connections, the last ones are served; a second signal ends at once");
        // Our copies of the listeners go first: with the worker's, the pods' ports close, and the rules refuse what comes.
        self.enrolments.clear();
        self.vault.write(&self.certificates);
        worker.say(&ToWorker::Drain { replaced: false }, &[]).await;
        self.retire(worker);
        tokio::select! {
            () = self.retired() => {}
            () = succession::put_off(&mut door, "it ends, and serves its last connections") => {}
            () = signals.stop() => {}
        }
        self.retiring.shutdown().await;
    }

    /// Has the worker un-enrol all pods; with that, a signal ends at once.
    async fn leave(
        &mut self,
        mut worker: Worker,
        mut door: mpsc::Receiver<Next>,
        signals: &mut Signals,
        removed: bool,
    ) {
        worker.say(&ToWorker::Leave { removed }, &[]).await;
        let left = async {
            // The worker ends when the last rule is gone; its Forgets are read until then.
            while let Ok(Some((bytes, descriptors))) = worker.channel.recv().await {
                self.hear(&bytes, descriptors);
            }
            worker.end().await.ok();
            self.retired().await;
        };
        tokio::select! {
            () = left => {}
            () = succession::put_off(&mut door, "it ends, and un-enrols all pods") => {}
            () = signals.stop() => {}
        }
        // What a worker that died in between left.
        for (uid, enrolment) in std::mem::take(&mut self.enrolments) {
            if let Err(error) = rules::remove(&enrolment.netns, Some(enrolment.generation)) {
                warn!(uid, path = %enrolment.path.display(), %error, "packet rules stay in a pod, and refuse its traffic");
            }
        }
        // What an earlier process left, where the worker was never sure of the mesh.
        for record in std::mem::take(&mut self.recorded) {
            if let Err(error) = leave::clear(&record) {
                warn!(
                    uid = record.uid,
                    error = format!("{error:#}"),
                    "packet rules stay in a pod, and refuse its traffic"
                );
            }
        }
        self.save();
        leave::forget_mesh(&self.config);
    }

    /// Has a worker that drains waited for.
    fn retire(&mut self, mut worker: Worker) {
        self.retiring.spawn(async move {
            let status = worker.child.wait().await.unwrap_or_default();
            // Open until then: a worker whose parent is gone ends.
            drop(worker.channel);
            status
        });
    }

    /// Waits until all workers that drain have ended. Safe to drop half-way.
    async fn retired(&mut self) {
        while self.retiring.join_next().await.is_some() {}
    }

    /// After the node was given up: serves the last connections and, where nobody has told this process to end, waits until somebody
    /// does. True where nobody serves the node any more.
    async fn linger(&mut self, signals: &mut Signals) -> bool {
        let mut told = self.stop.is_some() || !self.config.take_over;
        // The first look is when the one that took over has its lock for long.
        let start = tokio::time::Instant::now() + DESERTED;
        let mut look = tokio::time::interval_at(start, DESERTED);
        while !told || !self.retiring.is_empty() {
            tokio::select! {
                Some(ended) = self.retiring.join_next() => {
                    info!(status = %ended.unwrap_or_default(), "the last connection of before the hand-over was served");
                }
                _ = look.tick(), if !told => {
                    if NodeLock::holder(&self.config.run_dir, &self.config.node).is_none() {
                        return true;
                    }
                }
                signal = signals.told() => match signal {
                    Told::Terminate if !told => told = true,
                    Told::Terminate | Told::Interrupt => break,
                    Told::Upgrade | Told::Leave => warn!("another process serves the node: the signal is for that one"),
                }
            }
        }
        self.retiring.shutdown().await;
        false
    }

    /// Starts a worker and hands it everything that is enrolled, whether or not it relieves another.
    async fn start(&mut self, relieves: bool) -> anyhow::Result<Worker> {
        let worker = Worker::spawn(&self.command)?;
        let pages: Vec<BorrowedFd<'_>> = self.pages.iter().map(AsFd::as_fd).collect();
        let start = ToWorker::Start {
            config: Box::new(self.config.clone()),
            enrolments: self.enrolments.len(),
            recorded: self.recorded.len(),
            certificates: self.certificates.len(),
            restarts: self.restarts,
            relieves,
        };
        worker.say(&start, &pages).await;
        for enrolment in self.enrolments.values() {
            worker.say(&ToWorker::Adopt(enrolment.record()), &enrolment.descriptors()).await;
        }
        for record in &self.recorded {
            worker.say(&ToWorker::Recorded(record.clone()), &[]).await;
        }
        for (identity, pem) in &self.certificates {
            let message = ToWorker::Certificate { identity: identity.clone(), pem: pem.clone() };
            worker.say(&message, &[]).await;
        }
        Ok(worker)
    }

    /// Starts a worker in place of one that is gone, however often that takes: without one the node's pods are cut off.
    async fn start_again(&mut self) -> Worker {
        loop {
            match self.start(false).await {
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
        let worker = tokio::select! {
            worker = self.upgrade(SUCCESSION) => worker?,
            never = before.prepares() => match never {},
        };
        // One that is gone has given up as well: the lock tells.
        let given = before.serving().await;
        match NodeLock::take(&self.config.run_dir, &self.config.node) {
            Ok(lock) => self.own(lock),
            Err(taken) => {
                return Err(given.err().map_or(taken, |why| why.context("the node was not given up")));
            }
        }
        self.save();
        info!("this process serves the node now");
        Ok(worker)
    }

    /// When this process ends that was told to. In a cluster that may be because its pod is replaced, and then the next comes soon and
    /// takes over; or because the mesh is removed, which is heard of at about the same time.
    fn ends(&self) -> Option<tokio::time::Instant> {
        let replaced = matches!(self.config.origin, Origin::Controller { .. }) && self.config.take_over;
        let hesitation = if replaced && self.installed { HESITATION } else { Duration::ZERO };
        self.stop.map(|told| told + hesitation)
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
    async fn give_up(&mut self, next: Next) {
        self.enrolments.clear();
        self.certificates.clear();
        self.pages.clear();
        self.lock = None;
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
        let worker = self.start(true).await?;
        let ready = async {
            while let Some((bytes, descriptors)) = worker.channel.recv().await? {
                let ready = matches!(decode(&bytes), Ok(ToParent::Ready { .. }));
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
            Ok(ToParent::KeepCertificate { identity, pem }) => {
                if self.certificates.len() < MOST_CERTIFICATES || self.certificates.contains_key(&identity) {
                    self.certificates.insert(identity, pem);
                    self.vault.changed();
                }
                None
            }
            Ok(ToParent::ForgetCertificate { identity }) => {
                self.certificates.remove(&identity);
                self.vault.changed();
                None
            }
            Ok(ToParent::Installed { installed }) => {
                self.installed = installed;
                None
            }
            Ok(ToParent::Ready { unsure }) => {
                if !unsure && !std::mem::take(&mut self.recorded).is_empty() {
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

async fn until(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn after(pause: Duration) -> String {
    if pause.is_zero() { String::new() } else { format!(" in {pause:?}") }
}
