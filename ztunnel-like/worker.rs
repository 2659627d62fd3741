//! The worker: builds the data plane on what the parent hands over, then follows source, certificates and parent.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use aquifer_hbone::Budget;
use aquifer_model::{Mesh, MeshConfig, TrustDomain};
use aquifer_pki::{Issuer, Store, StoreConfig, SystemClock};
use aquifer_source::{Batch, SourceMetrics};
use aquifer_sys::fdpass::{AsyncChannel, Channel};
use aquifer_sys::memory::Rest;
use aquifer_sys::process;
use aquifer_telemetry::{LogFormat, LogHandle, Surface, Telemetry, TelemetryConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::cache::{self, Cache};
use crate::cni::Cni;
use crate::config::{NodeConfig, Origin};
use crate::control::{Control, Lives};
use crate::core::{Core, CoreThread};
use crate::ending;
use crate::enrolment::{Enrolment, EnrolmentRecord};
use crate::keeper::Keeper;
use crate::life::Order;
use crate::observe::Certificates;
use crate::protocol::{Secret, ToParent, ToWorker, decode, encode};
use crate::report::NodeReport;
use crate::shared::Shared;
use crate::source::{self, Source, Told};

/// Without a memory limit, the cap on buffered bytes.
const BUFFER_CAP: u64 = 1 << 30;
/// How long the last records may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(1);
/// How often peers' certificates are compared with the clock: nothing else tells that one has expired.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often the budget's state is written to the metrics.
const MEASURE: Duration = Duration::from_secs(1);

/// Runs the worker of this process: standard input is the channel to the parent.
///
/// # Errors
/// The channel is none, the certificate authority or the manifests cannot be read.
pub fn run(version: &'static str) -> anyhow::Result<()> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let channel = Channel::from_fd(stdin)
        .context("standard input is no channel: the worker is started by `aquifer node`, not by hand")?;
    process::die_with_parent(nix::unistd::getppid().as_raw().unsigned_abs()).context("parent process")?;
    let handed = Handed::receive(&channel)?;
    let format = if handed.config.telemetry.json { LogFormat::Json } else { LogFormat::Text };
    let log = aquifer_telemetry::init_logging(format, Some(&handed.config.telemetry.log_filter))?;
    let descriptors = process::raise_nofile()?;
    info!(
        version,
        restarts = handed.restarts,
        adopted = handed.enrolments.len(),
        descriptors,
        "worker starts"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (worker, source) = Worker::start(handed, channel, log, version).await?;
        worker.serve(source).await
    })
}

/// What the parent hands over at the start.
struct Handed {
    config: NodeConfig,
    pages: Vec<TcpListener>,
    enrolments: Vec<Enrolment>,
    recorded: Vec<EnrolmentRecord>,
    certificates: Vec<(String, Secret)>,
    restarts: u64,
    relieves: bool,
}

impl Handed {
    fn receive(channel: &Channel) -> anyhow::Result<Self> {
        let next = || -> anyhow::Result<(ToWorker, Vec<OwnedFd>)> {
            let (bytes, descriptors) = channel.recv()?.context("the parent is gone")?;
            Ok((decode(&bytes)?, descriptors))
        };
        let (start, pages) = next()?;
        let ToWorker::Start {
            config,
            enrolments: count,
            recorded: records,
            certificates: kept,
            restarts,
            relieves,
        } = start
        else {
            bail!("the parent's first message is not the start");
        };
        let mut enrolments = Vec::with_capacity(count.min(10_000));
        for _ in 0..count {
            let (ToWorker::Adopt(record), descriptors) = next()? else {
                bail!("the parent's message is not an enrolment");
            };
            enrolments.push(Enrolment::from_parts(record, descriptors)?);
        }
        let mut recorded = Vec::with_capacity(records.min(10_000));
        for _ in 0..records {
            let (ToWorker::Recorded(record), _) = next()? else {
                bail!("the parent's message is not the record of an enrolment");
            };
            recorded.push(record);
        }
        let mut certificates = Vec::with_capacity(kept.min(10_000));
        for _ in 0..kept {
            let (ToWorker::Certificate { identity, pem }, _) = next()? else {
                bail!("the parent's message is not a certificate");
            };
            certificates.push((identity, pem));
        }
        Ok(Self {
            config: *config,
            pages: pages.into_iter().map(TcpListener::from).collect(),
            enrolments,
            recorded,
            certificates,
            restarts,
            relieves,
        })
    }
}

struct Worker {
    config: NodeConfig,
    mesh: Mesh,
    control: Arc<Control>,
    channel: Arc<AsyncChannel>,
    pages: Vec<TcpListener>,
    enrolments: Vec<Enrolment>,
    recorded: Vec<EnrolmentRecord>,
    /// Another worker serves until this one does.
    relieves: bool,
    /// The mesh is of the node's cache: what it does not have may have come since, and nobody is put out by it.
    unsure: bool,
    /// Enrolments of pods that the cache does not want, until it is known whether they left: they stay captured.
    held_back: Vec<Enrolment>,
    keeper: Option<Arc<Keeper>>,
    /// Of a node that is told by a controller.
    cache: Option<Cache>,
    /// What the keeper has to say to the parent.
    words: Option<mpsc::Receiver<ToParent>>,
    news: SourceMetrics,
    log: LogHandle,
    threads: Vec<CoreThread>,
}

/// Why the worker's loop ended.
enum End {
    Drain { replaced: bool },
    Leave { removed: bool },
    ParentGone,
}

impl Worker {
    async fn start(
        handed: Handed,
        channel: Channel,
        log: LogHandle,
        version: &'static str,
    ) -> anyhow::Result<(Self, Source)> {
        let Handed { config, pages, enrolments, recorded, certificates, restarts, relieves } = handed;
        let telemetry = Telemetry::new(TelemetryConfig {
            series_limit: config.telemetry.series_limit,
            cluster_id: config.mesh.cluster_id.as_str().into(),
            version,
            log: Some(log.clone()),
            ..TelemetryConfig::default()
        });
        telemetry.workers().restarts(restarts);
        let trust_domain = TrustDomain::new(&config.mesh.trust_domain)?;
        let source = Source::open(&config).await?;
        // One in a folder of this machine is there when the node is.
        let (issuer, keeper, words): (Arc<dyn Issuer>, _, _) = match &config.origin {
            Origin::Folder { .. } => (source.issuer(), None, None),
            Origin::Controller { .. } => {
                let (keeper, words) = Keeper::new(source.issuer(), certificates);
                (keeper.clone(), Some(keeper), Some(words))
            }
        };
        let store = Store::new(
            issuer,
            Arc::new(SystemClock),
            Arc::new(Certificates { telemetry: telemetry.clone(), keeper: keeper.clone() }),
            StoreConfig {
                trust_domain,
                aliases: aliases(&config)?,
                lifetime: config.carry.certificate_lifetime,
                ..StoreConfig::default()
            },
        );
        let cache = keeper.is_some().then(|| Cache::new(&config));
        let mesh = Mesh::new(MeshConfig {
            root_namespace: config.mesh.root_namespace.as_str().into(),
            networks: networks(&config)?,
        });
        let cap = config
            .carry
            .buffer_cap
            .or_else(|| process::memory_limit().map(|limit| limit / 4))
            .unwrap_or(BUFFER_CAP);
        let budget = Budget::new(usize::try_from(cap)?);
        let shared = Arc::new(Shared::new(
            config.clone(),
            aquifer_hbone::Config::default(),
            store,
            telemetry,
            budget,
            mesh.snapshot(),
        ));
        let mut cores = Vec::new();
        let mut threads = Vec::new();
        for index in 0..config.carry.cores.max(1) {
            let (core, thread) = Core::start(index, shared.clone())?;
            cores.push(core);
            threads.push(thread);
        }
        let channel = Arc::new(AsyncChannel::new(channel)?);
        let control = Arc::new(Control::new(shared, cores.into(), channel.clone()));
        let news = SourceMetrics::new(control.shared.telemetry.clone());
        let worker = Self {
            config,
            mesh,
            control,
            channel,
            pages,
            enrolments,
            recorded,
            relieves,
            unsure: false,
            held_back: Vec::new(),
            keeper,
            cache,
            words,
            news,
            log,
            threads,
        };
        Ok((worker, source))
    }

    /// Serves until told to end, or until the parent is gone.
    async fn serve(mut self, source: Source) -> anyhow::Result<()> {
        let report = Arc::new(NodeReport::new(self.control.clone()));
        let pages = self.serve_pages(&report)?;
        let store = self.control.shared.store.clone();
        let renewal = tokio::spawn(async move { store.run().await });
        let (mut news, mut watch) = source.follow(&self.config, self.relieves);

        let mut lives = Lives::new(self.control.clone());
        let mut cni = Cni::start(&self.control);
        let mut adopted = Some(std::mem::take(&mut self.enrolments));
        let mut trust = self.control.shared.store.changes();
        let mut installed = source::installed(&self.config);
        let mut rest = Rest::default();
        let (mut measure, mut look) = (Instant::now(), Instant::now() + LOOK_AGAIN);
        let mut states = self.control.states.news();
        let mut ready = None;
        let end = loop {
            if ready != Some(self.unsure) && adopted.is_none() && lives.begun() {
                ready = Some(self.unsure);
                report.begun();
                self.channel.send(&encode(&ToParent::Ready { unsure: self.unsure }), &[]).await.ok();
            }
            tokio::select! {
                // Only to look again whether all pods have begun.
                Ok(()) = states.changed(), if ready != Some(self.unsure) => {}
                told = news.recv() => match told {
                    Some(Told::Batch { batch, of_cache }) => self.apply(&mut lives, &mut adopted, batch, of_cache).await,
                    Some(Told::Have(answer)) => _ = answer.send(self.mesh.snapshot().updates()),
                    None => {
                        // The watch ended: its error says why.
                        (&mut watch).await??;
                        bail!("the source of the mesh ended");
                    }
                },
                changed = trust.changed() => {
                    if changed.is_ok() {
                        self.control.certificates_changed();
                    }
                }
                Ok(()) = installed.changed() => {
                    let installed = *installed.borrow_and_update();
                    self.channel.send(&encode(&ToParent::Installed { installed }), &[]).await.ok();
                }
                () = cache::due(&mut self.cache) => {
                    if let Some(cache) = &mut self.cache {
                        cache.write(self.mesh.snapshot(), &self.control.shared.store.bundle());
                    }
                }
                word = hear(&mut self.words) => {
                    self.channel.send(&encode(&word), &[]).await.ok();
                }
                Some(()) = lives.ended() => {}
                Some(uid) = cni.announced() => lives.announced(&uid),
                message = self.channel.recv() => match message {
                    Ok(Some((bytes, _))) => match decode(&bytes) {
                        Ok(ToWorker::Kept { uid }) => self.control.kept(&aquifer_model::PodUid::new(uid)),
                        Ok(ToWorker::Drain { replaced }) => break End::Drain { replaced },
                        Ok(ToWorker::Leave { removed }) => break End::Leave { removed },
                        Ok(ToWorker::Start { .. } | ToWorker::Adopt(_) | ToWorker::Recorded(_) | ToWorker::Certificate { .. }) => {}
                        Err(error) => error!(%error, "the parent sent a message that is none"),
                    },
                    Ok(None) | Err(_) => break End::ParentGone,
                },
                () = sleep_until(look) => {
                    look = Instant::now() + LOOK_AGAIN;
                    self.control.certificates_changed();
                    // By now each pod of an earlier worker has asked for its own.
                    if adopted.is_none() && let Some(keeper) = self.keeper.take() {
                        keeper.forget_unused();
                    }
                }
                () = sleep_until(measure) => {
                    measure = Instant::now() + MEASURE;
                    let budget = &self.control.shared.budget;
                    let buffers = self.control.shared.telemetry.buffers();
                    buffers.held(budget.used() as u64, budget.cap() as u64);
                    buffers.shed(budget.resets());
                    rest.tick();
                }
            }
        };
        match end {
            // Pods that begin are not held by it any more.
            End::Leave { .. } => cni.leave(&self.config),
            End::Drain { .. } | End::ParentGone => cni.stop(),
        }
        let (control, channel) = (self.control.clone(), self.channel.clone());
        let judge = ending::judge(&control, &mut self.mesh, &mut self.news, &mut news, &mut trust);
        match end {
            End::Drain { replaced } => {
                if replaced {
                    // The next worker shows its own on the same ports.
                    drop(pages);
                } else {
                    report.ends();
                }
                let carry = &self.config.carry;
                let patience = if replaced { carry.drain_replaced } else { carry.drain };
                let removed = ending::removed(&mut installed, carry.drain_removed);
                ending::drain(&control, &channel, patience, &mut lives, judge, removed).await;
            }
            End::Leave { removed } => {
                let order = match removed {
                    true => Order::release(self.config.carry.drain_removed),
                    false => Order::Leave,
                };
                ending::leave(&control, &channel, &mut lives, &order, judge).await;
            }
            End::ParentGone => warn!(
                "the parent is gone: the worker ends, and the pods' traffic is refused until a node serves them again"
            ),
        }
        renewal.abort();
        // Whatever is still carried is reset as the cores end.
        self.threads.clear();
        self.log.flush(FLUSH);
        Ok(())
    }

    async fn apply(
        &mut self,
        lives: &mut Lives,
        adopted: &mut Option<Vec<Enrolment>>,
        batch: Batch,
        of_cache: Option<SystemTime>,
    ) {
        self.news.count(&batch);
        self.control.serves(of_cache);
        if !batch.synced {
            // Not the mesh yet, only what is wrong: nobody is let in or put out by it.
            return;
        }
        let change = self.mesh.apply(batch.updates);
        let changed = change.policies || change.services || !change.workloads.is_empty();
        if let Some(cache) = self.cache.as_mut().filter(|_| changed && of_cache.is_none()) {
            cache.changed();
        }
        // What an earlier worker enrolled is taken over before anything new is made for the same pods.
        let (first, sure) = (adopted.is_some(), of_cache.is_none());
        if first || (sure && self.unsure) {
            self.control.shared.publish(self.mesh.snapshot());
            let earlier = adopted.take().unwrap_or_else(|| std::mem::take(&mut self.held_back));
            self.held_back = lives.adopt(earlier, sure);
            if sure {
                lives.clear(std::mem::take(&mut self.recorded));
            }
            self.unsure = !sure;
            lives.apply(&self.mesh, &change);
            lives.begin();
        } else {
            lives.apply(&self.mesh, &change);
        }
        if first {
            self.say_networks();
        }
    }

    /// Says once where an unknown destination waits instead of leaving in clear, and above all if that is nowhere.
    fn say_networks(&self) {
        let mesh = self.mesh.snapshot();
        let networks: Vec<String> = match &self.config.mesh.networks {
            Some(networks) => networks.clone(),
            None => mesh.nodes().flat_map(|node| &node.pod_cidrs).map(ToString::to_string).collect(),
        };
        if networks.is_empty() {
            warn!(
                "no network belongs to the mesh (no Node has podCIDRs, or --mesh-networks is none): calls to addresses \
                 that nobody is known to have leave in clear"
            );
        } else {
            // A line in the log, not a page: large clusters have a network for each node.
            let shown = networks.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(",");
            info!(networks = networks.len(), %shown, "inside these networks nothing unknown leaves in clear");
        }
    }

    fn serve_pages(&mut self, report: &Arc<NodeReport>) -> anyhow::Result<Vec<AbortOnDrop>> {
        let telemetry = &self.control.shared.telemetry;
        let surfaces = [
            self.config.pages.admin.map(|_| Surface::Admin {
                report: report.clone(),
                readiness: report.clone(),
                telemetry: telemetry.clone(),
                log: Some(self.log.clone()),
            }),
            self.config.pages.metrics.map(|_| Surface::Metrics(telemetry.clone())),
            self.config.pages.ready.map(|_| Surface::Ready(report.clone())),
        ];
        let listeners = std::mem::take(&mut self.pages).into_iter();
        let serve = |(surface, listener): (Surface, TcpListener)| {
            AbortOnDrop(tokio::spawn(async move {
                if let Err(error) = aquifer_telemetry::serve(surface, listener).await {
                    error!(%error, "a page is served no more");
                }
            }))
        };
        Ok(surfaces.into_iter().flatten().zip(listeners).map(serve).collect())
    }
}

/// The keeper's next word; none is ever said where there is no keeper.
async fn hear(words: &mut Option<mpsc::Receiver<ToParent>>) -> ToParent {
    if let Some(words) = words
        && let Some(word) = words.recv().await
    {
        return word;
    }
    std::future::pending().await
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn aliases(config: &NodeConfig) -> anyhow::Result<Vec<TrustDomain>> {
    config.mesh.trust_domain_aliases.iter().map(|alias| TrustDomain::new(alias).map_err(Into::into)).collect()
}

fn networks(config: &NodeConfig) -> anyhow::Result<Option<Vec<ipnet::IpNet>>> {
    let parse = |text: &String| {
        text.parse().with_context(|| format!("mesh network {text:?}: write a CIDR, as 10.0.0.0/8"))
    };
    config.mesh.networks.as_ref().map(|networks| networks.iter().map(parse).collect()).transpose()
}
