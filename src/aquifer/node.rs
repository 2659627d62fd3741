//! `aquifer node`: flags to configuration, then the parent, which starts the worker.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use aquifer_telemetry::LogFormat as TelemetryFormat;
use aquifer_ztunnel_like::config::{
    Carry, CniFolders, MeshNames, NodeConfig, Origin, Pages, Reporting, SameNode,
};
use aquifer_ztunnel_like::parent::{self, WorkerCommand};

use crate::cli::{LogFormat, MeshFlags, NodeFlags, SameNodeFlag};

/// Below this a certificate would be renewed faster than connections are made.
const SHORTEST_LIFETIME: std::time::Duration = std::time::Duration::from_secs(10);

/// Room for a pod's uid and for a name of Kubernetes.
const LONGEST_INSTANCE: usize = 253;

/// How long the last lines of the log may take to be written.
const FLUSH: std::time::Duration = std::time::Duration::from_secs(1);

/// First arguments of the two processes that serve a node. They are no commands for people, and not in the command line's
/// grammar: whoever builds that keeps its heap and its share of the program's pages, here for as long as the node runs.
const PARENT: &str = "node-parent";
const WORKER: &str = "node-worker";

/// Serves where these arguments are those of a node's process; `None` where they are a person's.
pub(crate) fn process(mut arguments: impl Iterator<Item = OsString>) -> Option<anyhow::Result<()>> {
    match arguments.next()?.to_str()? {
        PARENT => Some(serve(&arguments.next().unwrap_or_default().to_string_lossy())),
        WORKER => Some(aquifer_ztunnel_like::worker::run(env!("CARGO_PKG_VERSION"))),
        _ => None,
    }
}

/// Becomes the parent of a node, or with `--leave` un-enrols its pods.
pub(crate) fn run(flags: NodeFlags) -> anyhow::Result<()> {
    let leave = flags.leave;
    let config = configuration(flags)?;
    if leave {
        return parent::leave(&config, config.carry.drain + std::time::Duration::from_secs(10));
    }
    let missing = aquifer_sys::process::missing();
    if !missing.is_empty() {
        bail!("this process cannot capture traffic:\n  - {}", missing.join("\n  - "));
    }
    // Over again as the same process, so that flags and checks leave nothing resident: half of what the parent would hold.
    let error =
        std::process::Command::new(this_program()?).args([PARENT, &serde_json::to_string(&config)?]).exec();
    Err(error).context("this program cannot be started again as the parent of a node")
}

/// The parent half, with its configuration as JSON.
fn serve(config: &str) -> anyhow::Result<()> {
    let config: NodeConfig = serde_json::from_str(config)
        .context("the parent of a node is started by `aquifer node`, not by hand")?;
    let log = aquifer_telemetry::init_logging(log_format(&config), Some(&config.telemetry.log_filter))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %serde_json::to_string(&config)?, "starting");
    let command = WorkerCommand { program: this_program()?, arguments: vec![WORKER.into()] };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(parent::run(config, command));
    log.flush(FLUSH);
    served
}

fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("path of this program")
}

fn log_format(config: &NodeConfig) -> TelemetryFormat {
    if config.telemetry.json { TelemetryFormat::Json } else { TelemetryFormat::Text }
}

fn configuration(flags: NodeFlags) -> anyhow::Result<NodeConfig> {
    if flags.certificate_lifetime < SHORTEST_LIFETIME {
        bail!("--certificate-lifetime: at least {SHORTEST_LIFETIME:?}");
    }
    if flags.node.is_empty() || flags.node.contains('/') {
        bail!("--node {:?}: the name of a Kubernetes Node", flags.node);
    }
    if let Some(name) = &flags.instance
        && (name.is_empty()
            || name.len() > LONGEST_INSTANCE
            || !name.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        bail!("--instance {name:?}: at most {LONGEST_INSTANCE} printable characters, without spaces");
    }
    let origin = match flags.controller {
        Some(url) => Origin::Controller {
            url,
            token: flags.token,
            roots: flags.roots,
            system_namespace: aquifer_k8s::names::SYSTEM_NAMESPACE.to_owned(),
        },
        None => Origin::Folder {
            manifests: flags.manifests.unwrap_or_default(),
            ca_dir: flags.ca_dir.unwrap_or_default(),
        },
    };
    let carry = Carry::default();
    Ok(NodeConfig {
        node: flags.node,
        origin,
        run_dir: flags.run_dir,
        take_over: flags.take_over,
        instance: flags.instance,
        cni: flags.cni_conf_dir.zip(flags.cni_bin_dir).map(|(conf_dir, bin_dir)| CniFolders {
            conf_dir,
            bin_dir,
            program: flags.cni_program,
        }),
        mesh: mesh_names(flags.mesh)?,
        pages: Pages { admin: flags.admin_addr.0, metrics: flags.metrics_addr.0, ready: flags.ready_addr.0 },
        carry: Carry {
            cores: flags.cores.map_or(carry.cores, usize::from),
            same_node: match flags.same_node {
                SameNodeFlag::Direct => SameNode::Direct,
                SameNodeFlag::Mtls => SameNode::Mtls,
            },
            half_close_idle: flags.half_close_idle,
            drain: flags.drain,
            drain_replaced: flags.drain_replaced,
            drain_removed: flags.drain_removed,
            buffer_cap: flags.buffer_cap,
            certificate_lifetime: flags.certificate_lifetime,
            max_connections: flags.max_connections,
            ..carry
        },
        telemetry: Reporting {
            json: flags.log_format == LogFormat::Json,
            series_limit: flags.series_limit,
            log_filter: std::env::var("RUST_LOG").unwrap_or_else(|_| Reporting::default().log_filter),
        },
    })
}

/// Checks names and networks here, where the flag can be named.
pub(crate) fn mesh_names(flags: MeshFlags) -> anyhow::Result<MeshNames> {
    for domain in std::iter::once(&flags.trust_domain).chain(&flags.trust_domain_aliases) {
        aquifer_model::TrustDomain::new(domain).context("--trust-domain or --trust-domain-alias")?;
    }
    let networks = match flags.mesh_networks {
        None => None,
        Some(none) if none == ["none"] => Some(Vec::new()),
        Some(networks) => Some(networks),
    };
    Ok(MeshNames {
        trust_domain: flags.trust_domain,
        trust_domain_aliases: flags.trust_domain_aliases,
        cluster_id: flags.cluster_id,
        cluster_domain: flags.cluster_domain,
        root_namespace: flags.root_namespace,
        networks,
    })
}

#[cfg(test)]
mod tests {
    use aquifer_k8s::names;

    /// Crates that know nothing of Kubernetes spell them for themselves.
    #[test]
    fn names_that_are_written_twice_agree() {
        assert_eq!(aquifer_ztunnel_like::cni::MESH_LABEL, names::MESH_LABEL);
        assert!(aquifer_cni::plugin::EXEMPT.contains(&names::SYSTEM_NAMESPACE));
    }
}
