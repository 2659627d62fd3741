//! What a node is told at start: one tree of small structs, every default in one place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Configuration of a node. It crosses from parent to worker as JSON and is shown at `/config`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Name of the Node whose pods this process serves.
    pub node: String,
    /// Where the mesh and its certificates come from.
    pub origin: Origin,
    /// Holds the node's lock, the record of what is enrolled, and the socket of the CNI plug-in.
    pub run_dir: PathBuf,
    /// Whether a process of this node that serves already is succeeded instead of being an error, and whether this one, once it
    /// is succeeded, waits for SIGTERM before it ends: as a supervisor that starts the next before it stops the first expects.
    pub take_over: bool,
    /// Name of whatever starts this process again when it ends, such as its pod's uid: one that gave the node away does not take it
    /// back from its successor. `None`: whoever was started last serves.
    #[serde(default)]
    pub instance: Option<String>,
    /// Where the CNI plug-in is kept; `None`: pods are enrolled when they are heard of, and begin without waiting for it.
    #[serde(default)]
    pub cni: Option<CniFolders>,
    /// Who the mesh is.
    pub mesh: MeshNames,
    /// Addresses of the pages, taken in the namespace where the process runs.
    pub pages: Pages,
    /// How connections are carried.
    pub carry: Carry,
    /// What is written to standard output, and how many metric series are kept.
    pub telemetry: Reporting,
}

/// Where the mesh and its certificates come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Files of this machine.
    Folder {
        /// Folder of Kubernetes YAML.
        manifests: PathBuf,
        /// Folder of the local certificate authority, in the layout of Istio's plugged-in CA.
        ca_dir: PathBuf,
    },
    /// The controller of a cluster.
    Controller {
        /// `https://HOST:PORT`.
        url: String,
        /// File with this node's token.
        token: PathBuf,
        /// File with the trusted roots.
        roots: PathBuf,
        /// Namespace of the controller.
        system_namespace: String,
    },
}

/// Folders of the host's container runtime, which the node sees at the same paths.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CniFolders {
    /// Folder of network configurations (`/etc/cni/net.d`).
    pub conf_dir: PathBuf,
    /// Folder of plug-ins (`/opt/cni/bin`).
    pub bin_dir: PathBuf,
    /// The plug-in, from where it is copied.
    pub program: PathBuf,
}

/// Names and networks that all nodes of a mesh agree on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MeshNames {
    /// Trust domain of identities issued and accepted.
    pub trust_domain: String,
    /// Further trust domains whose callers are accepted.
    pub trust_domain_aliases: Vec<String>,
    /// Istio's cluster id, first part of workload names and a metric label.
    pub cluster_id: String,
    /// DNS domain of services.
    pub cluster_domain: String,
    /// Namespace whose policies apply to the whole mesh.
    pub root_namespace: String,
    /// Networks in which an unknown destination waits instead of leaving in clear. `None`: the Nodes' podCIDRs.
    pub networks: Option<Vec<String>>,
}

/// Addresses of the pages; `None` is `off`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pages {
    /// Configuration, snapshot, certificates, pools, enrolments, log level. Loopback by default: it is not authenticated.
    pub admin: Option<SocketAddr>,
    /// Prometheus.
    pub metrics: Option<SocketAddr>,
    /// Readiness.
    pub ready: Option<SocketAddr>,
}

/// How connections are carried, with the bounds that hold them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Carry {
    /// Data-plane threads, one runtime each.
    pub cores: usize,
    /// What happens between two pods of this node.
    pub same_node: SameNode,
    /// How long a connection that was closed in one direction may be idle in the other before it is reset; zero is for ever.
    /// The kernel's own bound (tcp_fin_timeout) does not apply, since no socket of the proxy is orphaned.
    pub half_close_idle: Duration,
    /// How long the last connections are served after SIGTERM before they are cut.
    pub drain: Duration,
    /// The same where another worker has taken over, so that nobody waits for the end of this one.
    pub drain_replaced: Duration,
    /// How long connections are carried after the mesh was removed from the cluster.
    pub drain_removed: Duration,
    /// Cap on bytes buffered for slow readers, all connections together. `None`: a quarter of the memory limit.
    pub buffer_cap: Option<u64>,
    /// Lifetime of certificates; they are renewed at half of it.
    pub certificate_lifetime: Duration,
    /// How long a destination inside the mesh's networks that is not known yet may stay unknown.
    pub unknown_wait: Duration,
    /// How long a dial to an application or to a peer may take.
    pub dial: Duration,
    /// Connections one node carries at once; past it new ones are reset. Each costs two descriptors.
    pub max_connections: usize,
}

/// What happens between two pods of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// Handed over inside the process, after both identities are known and the policy was asked.
    Direct,
    /// Through the tunnel like any other.
    Mtls,
}

/// Output and series.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reporting {
    /// JSON lines instead of text.
    pub json: bool,
    /// Series kept per metric.
    pub series_limit: usize,
    /// Filter of the log at start, in the notation of `RUST_LOG`.
    pub log_filter: String,
}

impl Default for MeshNames {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "aquifer-system".into(),
            networks: None,
        }
    }
}

impl Default for Carry {
    fn default() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            same_node: SameNode::Direct,
            half_close_idle: Duration::from_secs(3600),
            drain: Duration::from_secs(30),
            drain_replaced: Duration::from_secs(3600),
            // Kubernetes looks 5 s and 10 s after a namespace was deleted whether its pods are gone, and where they are not, again only
            // after half of their grace period.
            drain_removed: Duration::from_secs(4),
            buffer_cap: None,
            certificate_lifetime: Duration::from_secs(24 * 3600),
            unknown_wait: Duration::from_secs(5),
            dial: Duration::from_secs(10),
            max_connections: 100_000,
        }
    }
}

impl Default for Reporting {
    fn default() -> Self {
        Self { json: false, series_limit: 10_000, log_filter: "info,nlink=error".into() }
    }
}

#[cfg(test)]
impl NodeConfig {
    /// Of a node without pages that a controller tells.
    pub(crate) fn of_test(run_dir: &std::path::Path, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            origin: Origin::Controller {
                url: "https://controller:15012".into(),
                token: "token".into(),
                roots: "roots".into(),
                system_namespace: "aquifer-system".into(),
            },
            run_dir: run_dir.to_owned(),
            take_over: false,
            instance: None,
            cni: None,
            mesh: MeshNames::default(),
            pages: Pages { admin: None, metrics: None, ready: None },
            carry: Carry::default(),
            telemetry: Reporting::default(),
        }
    }
}
