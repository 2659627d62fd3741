//! The controller: the certificate authority of a cluster, and the discovery service that tells nodes what the mesh is.
//!
//! Where to begin reading: [`run`] builds everything; `caller` says who asks, `grants` what they may have, `authority` is the Secret
//! with the key. Every replica serves; both read the same Secret and the same API server. One of them, the `leader`, writes the
//! `status` of policies and, where that is wanted, takes the taint off new nodes (`untaint`).

mod authority;
mod caller;
mod certificates;
mod config;
mod events;
mod grants;
mod guard;
mod leader;
mod objects;
mod rates;
mod report;
mod server;
mod status;
mod untaint;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aquifer_discovery::server::{Feed, service};
use aquifer_k8s::names;
use aquifer_model::{Identity, Mesh, MeshConfig, TrustDomain};
use aquifer_source::{SourceMetrics, TranslateConfig, cluster};
use aquifer_telemetry::{LogHandle, Surface, Telemetry, TelemetryConfig, serve};
use kube::Client;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use authority::Authority;
use caller::{Callers, NodeAccounts};
use certificates::Certificates;
pub use config::ControllerConfig;
use events::Events;
use grants::Grants;
use guard::Guard;
use leader::Candidate;
use report::ControllerReport;
use status::{Moment, Refusals, Status};
use untaint::Untaint;

/// Calls take milliseconds; what is under way after so long is cut.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Giving the Lease back is one call; without an answer it expires by itself.
const RELEASE: Duration = Duration::from_secs(2);

/// Serves until the process is told to end.
///
/// # Errors
/// The API server refuses what the controller needs, the authority's Secret holds none, or an address is taken.
pub async fn run(
    config: ControllerConfig,
    client: Client,
    log: LogHandle,
    version: &'static str,
    ended: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let trust_domain = TrustDomain::new(&config.trust_domain)?;
    let telemetry = Telemetry::new(TelemetryConfig {
        series_limit: config.series_limit,
        cluster_id: config.cluster_id.as_str().into(),
        version,
        role: "controller",
        log: Some(log.clone()),
        ..TelemetryConfig::default()
    });
    let listener = listen(config.listen)?;
    let own = Identity::new(trust_domain.clone(), config.system_namespace.as_str(), names::CONTROLLER);
    let authority = Authority::open(client.clone(), &config.system_namespace, &trust_domain, own)
        .await
        .context("the certificate authority")?;
    let authority = Arc::new(authority);
    let feed = Arc::new(Feed::new());
    let grants = Arc::new(Grants::default());
    let accounts = NodeAccounts::new(&config.system_namespace, &config.node_accounts)?;
    let callers = Arc::new(Callers::new(client.clone(), accounts));

    let mut tasks = JoinSet::new();
    let (batches, source) = mpsc::channel(4);
    let watching = client.clone();
    let translation = TranslateConfig {
        cluster_id: config.cluster_id.as_str().into(),
        cluster_domain: config.cluster_domain.as_str().into(),
        trust_domain: trust_domain.clone(),
        root_namespace: config.root_namespace.as_str().into(),
    };
    tasks.spawn(
        async move { cluster::watch(watching, translation, batches).await.map_err(anyhow::Error::from) },
    );
    let replica = leader::name_of_this()?;
    let candidate = Candidate::new(client.clone(), &config.system_namespace, &replica, telemetry.clone());
    let (events, writer) = Events::new(client.clone(), &replica, telemetry.clone());
    let (moment, moments) = watch::channel(None);
    let status = Status {
        client: client.clone(),
        root: config.root_namespace.as_str().into(),
        leading: candidate.leading(),
        moments,
        events: events.clone(),
        telemetry: telemetry.clone(),
    };
    let untaint = config.untaint_nodes.then(|| {
        Untaint::new(client.clone(), &config.system_namespace, candidate.leading(), telemetry.clone())
    });
    let report = ControllerReport::new(config.clone(), feed.clone(), authority.clone(), candidate.leading());
    let report = Arc::new(report);
    let mesh = Mesh::new(MeshConfig {
        root_namespace: config.root_namespace.as_str().into(),
        networks: Some(Vec::new()),
    });
    let hearers = Hearers { feed: feed.clone(), grants: grants.clone(), report: report.clone(), moment };
    tasks.spawn(follow(mesh, source, hearers, telemetry.clone()));
    tasks.spawn(keep(authority.clone(), feed.clone(), telemetry.clone()));
    serve_pages(&config, &report, &telemetry, &log, &mut tasks)?;

    let guard = Guard::new(callers, telemetry.clone());
    let certificates = Certificates::new(authority.clone(), grants, trust_domain, events, telemetry);
    let routes = tonic::service::Routes::new(service(feed.clone())).add_service(certificates.service());
    let (end, ending) = oneshot::channel::<()>();
    let served = server::serve(listener, authority, guard, routes, async move { _ = ending.await });
    let mut served = pin!(served);
    // What writes ends before the Lease is given back.
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        candidate.run().await;
        anyhow::Ok(())
    });
    writing.spawn(status.run());
    writing.spawn(async move {
        writer.run().await;
        anyhow::Ok(())
    });
    if let Some(untaint) = untaint {
        writing.spawn(async move {
            untaint.run().await;
            anyhow::Ok(())
        });
    }
    info!(address = %config.listen, "certificates and discovery are served");
    tokio::select! {
        result = &mut served => return result.context("the gRPC server"),
        Some(task) = tasks.join_next() => return task?.context("a part of the controller ended"),
        Some(task) = writing.join_next() => return task?.context("what writes ended"),
        () = ended => {}
    }
    // Nobody is sent here any more, and who is here goes elsewhere.
    report.ends();
    feed.end();
    drop(end);
    writing.shutdown().await;
    let release = timeout(RELEASE, leader::release(client, &config.system_namespace, &replica));
    let (released, served) = tokio::join!(release, timeout(LAST_CALLS, served));
    match released {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the Lease was not given back; it expires"),
        Err(_) => warn!("the Lease was not given back: no answer; it expires"),
    }
    match served {
        Ok(result) => result.context("the gRPC server"),
        Err(_) => Ok(()),
    }
}

/// Who is told what the source says.
struct Hearers {
    feed: Arc<Feed>,
    grants: Arc<Grants>,
    report: Arc<ControllerReport>,
    moment: watch::Sender<Option<Moment>>,
}

/// Hands on what the source says: first to those who ask for certificates, then to the nodes, which will ask.
async fn follow(
    mut mesh: Mesh,
    mut source: mpsc::Receiver<aquifer_source::Batch>,
    hearers: Hearers,
    telemetry: Telemetry,
) -> anyhow::Result<()> {
    let Hearers { feed, grants, report, moment } = hearers;
    let mut metrics = SourceMetrics::new(telemetry.clone());
    let mut refusals = Refusals::default();
    while let Some(batch) = source.recv().await {
        metrics.count(&batch);
        report.heard(&batch);
        let updates = batch.updates.clone();
        let change = mesh.apply(batch.updates);
        grants.apply(&change);
        feed.apply(&updates, batch.synced);
        let snapshot = mesh.snapshot();
        feed.show(&updates, snapshot.clone(), batch.synced);
        report.knows(snapshot.clone());
        report.synced(batch.synced);
        refusals.count(&batch.policies, &telemetry);
        moment.send_replace(Some(Moment { mesh: snapshot, policies: batch.policies }));
    }
    anyhow::bail!("the watch of the API server ended")
}

/// Follows the authority's Secret, and renews the server's own certificate.
async fn keep(authority: Arc<Authority>, feed: Arc<Feed>, telemetry: Telemetry) -> anyhow::Result<()> {
    let mut beat = interval(authority::BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = None;
    loop {
        beat.tick().await;
        telemetry.controller().discovery(feed.streams(), feed.rejections());
        let outcome = authority.refresh().await.map_err(|error| format!("{error:#}"));
        telemetry.certificates().roots(authority.signer().authority().bundle.roots().len());
        match outcome {
            Ok(()) => said = None,
            Err(why) if said.as_ref() != Some(&why) => {
                telemetry.certificates().failed("refresh");
                error!(why, "the authority stays as it was");
                said = Some(why);
            }
            Err(_) => {}
        }
    }
}

fn serve_pages(
    config: &ControllerConfig,
    report: &Arc<ControllerReport>,
    telemetry: &Telemetry,
    log: &LogHandle,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let admin = Surface::Admin {
        report: report.clone(),
        readiness: report.clone(),
        telemetry: telemetry.clone(),
        log: Some(log.clone()),
    };
    let surfaces = [
        (config.admin, admin),
        (config.metrics, Surface::Metrics(telemetry.clone())),
        (config.ready, Surface::Ready(report.clone())),
    ];
    for (address, surface) in surfaces {
        if let Some(address) = address {
            let listener = listen(address)?;
            tasks.spawn(async move { serve(surface, listener).await.map_err(anyhow::Error::from) });
        }
    }
    Ok(())
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("address {address} cannot be taken"))
}

/// Where the authority's files are, for messages.
fn place(namespace: &str) -> std::path::PathBuf {
    Path::new("Secret").join(namespace).join(authority::SECRET)
}
