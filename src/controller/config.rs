//! What a controller is told at start.

use std::net::SocketAddr;

use serde::Serialize;

/// Configuration of a controller; it is shown at `/config`.
#[derive(Clone, Debug, Serialize)]
pub struct ControllerConfig {
    /// Trust domain of all identities.
    pub trust_domain: String,
    /// First part of workload names.
    pub cluster_id: String,
    /// DNS domain of services.
    pub cluster_domain: String,
    /// Namespace whose policies apply to the whole mesh.
    pub root_namespace: String,
    /// Namespace of the mesh itself: the controller's, the nodes' and that of the authority's Secret.
    pub system_namespace: String,
    /// Service accounts, `NAMESPACE/NAME`, that are node proxies besides those of the mesh's own namespace: they are told the mesh, and
    /// may ask for the identities of pods on their nodes.
    pub node_accounts: Vec<String>,
    /// Whether the replica that leads takes the taint `aquifer.dev/not-ready` off nodes whose proxy is ready.
    pub untaint_nodes: bool,
    /// Certificates and discovery, over TLS.
    pub listen: SocketAddr,
    /// Admin pages; `None` is `off`.
    pub admin: Option<SocketAddr>,
    /// Prometheus.
    pub metrics: Option<SocketAddr>,
    /// Readiness.
    pub ready: Option<SocketAddr>,
    /// Metric series kept per metric.
    pub series_limit: usize,
}
