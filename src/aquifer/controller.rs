//! `aquifer controller`: flags to configuration, then the controller until it is told to end.

use std::time::Duration;

use anyhow::bail;
use aquifer_controller::ControllerConfig;
use aquifer_k8s::names;
use aquifer_sys::memory::Rest;
use aquifer_telemetry::LogFormat as TelemetryFormat;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{ControllerFlags, LogFormat};
use crate::{cluster, node};

/// How long the last lines of the log may take to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// Pause between two looks at whether this process is at rest.
const LOOK: Duration = Duration::from_secs(2);

/// Metric series kept per metric. A controller has none that grow with the cluster.
const SERIES: usize = 1_000;

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(flags: ControllerFlags) -> anyhow::Result<()> {
    let mesh = node::mesh_names(flags.mesh)?;
    if mesh.networks.is_some() {
        bail!(
            "--mesh-networks is for nodes: the controller tells them the networks of the cluster's own Nodes"
        );
    }
    let config = ControllerConfig {
        trust_domain: mesh.trust_domain,
        cluster_id: mesh.cluster_id,
        cluster_domain: mesh.cluster_domain,
        root_namespace: mesh.root_namespace,
        system_namespace: names::SYSTEM_NAMESPACE.to_owned(),
        // A variable that is set and empty names none.
        node_accounts: flags.node_accounts.into_iter().filter(|account| !account.is_empty()).collect(),
        untaint_nodes: flags.untaint_nodes,
        listen: flags.listen_addr,
        admin: flags.admin_addr.0,
        metrics: flags.metrics_addr.0,
        ready: flags.ready_addr.0,
        series_limit: SERIES,
    };
    let format =
        if flags.log_format == LogFormat::Json { TelemetryFormat::Json } else { TelemetryFormat::Text };
    let log = aquifer_telemetry::init_logging(format, std::env::var("RUST_LOG").ok().as_deref())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %serde_json::to_string(&config)?, "starting");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        // Ends with the runtime.
        tokio::spawn(give_back_at_rest());
        let client = cluster::client(&flags.cluster).await?;
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let ended = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        aquifer_controller::run(config, client, log.clone(), env!("CARGO_PKG_VERSION"), ended).await
    });
    log.flush(FLUSH);
    served
}

/// Gives memory back whenever the process has come to rest, for ever.
async fn give_back_at_rest() {
    let mut rest = Rest::default();
    loop {
        tokio::time::sleep(LOOK).await;
        rest.tick();
    }
}
