//! Where everything runs: two nodes, and pods whose paths are equally long for every contender.
//!
//! ```text
//!   node-1                                    node-2
//!   plain-client   client   near-server      plain-server   server
//! ```
//! The plain pods are outside the mesh and carry direct calls, HAProxy and Envoy; the others are Aquifer's. Each proxy hop
//! stands in the namespace of its pod, as Aquifer's capture does, so a connection crosses the same virtual cables whoever
//! carries it: client pod → node-1 → wire → node-2 → server pod. What differs is only who copies at either end. Aquifer is
//! reached by calling the server itself; the others are called at the address of their first hop, since nothing redirects.

use std::{io, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use aquifer_integration::{Bed, Families, Plan, Pod, PodSpec};

use crate::load::Server;

/// First part of the names of the bench's namespaces.
const PREFIX: &str = "aqbench";
/// The port of the server applications.
const APPLICATION_PORT: u16 = 9000;
/// Kubernetes namespace of all pods.
pub(crate) const NAMESPACE: &str = "bench";

/// The pods, with a server application in each that is a server.
#[derive(Debug)]
pub struct Topology {
    /// Nodes and namespaces; everything goes with it.
    pub bed: Bed,
    /// Client outside the mesh, on the first node.
    pub plain_client: Pod,
    /// Server outside the mesh, on the second node.
    pub plain_server: Pod,
    /// Client in the mesh, on the first node.
    pub client: Pod,
    /// Server in the mesh, on the second node.
    pub server: Pod,
    /// Server in the mesh, on the client's node.
    pub near_server: Pod,
    // Ended before the bed is.
    _applications: Vec<Server>,
}

impl Topology {
    /// Builds it, after removing what an interrupted run left.
    ///
    /// # Errors
    /// Without root; where namespaces or links cannot be made.
    pub fn build() -> Result<Self> {
        let plan = Plan { prefix: PREFIX.into(), families: Families::V4, ..Plan::default() };
        Bed::cleanup_leftovers(Path::new(&plan.netns_dir), PREFIX)
            .context("cannot clear away an earlier run")?;
        let mut bed = Bed::new(plan)?;
        let mut pod = |name: &str, node: usize, in_mesh: bool| {
            let spec = PodSpec::new(&format!("{NAMESPACE}/{name}")).on(node);
            let pod = bed.pod(if in_mesh { spec } else { spec.outside_the_mesh() })?;
            many_connections(&pod).with_context(|| format!("cannot set sysctls in pod {name}"))?;
            anyhow::Ok(pod)
        };
        let plain_client = pod("plain-client", 0, false)?;
        let plain_server = pod("plain-server", 1, false)?;
        let client = pod("client", 0, true)?;
        let server = pod("server", 1, true)?;
        let near_server = pod("near-server", 0, true)?;
        let applications = [&plain_server, &server, &near_server]
            .map(|pod| Server::start(pod.ns(), application(pod)))
            .into_iter()
            .collect::<io::Result<_>>()?;
        Ok(Self { bed, plain_client, plain_server, client, server, near_server, _applications: applications })
    }
}

/// The address of the server application in a pod.
pub fn application(pod: &Pod) -> SocketAddr {
    SocketAddr::new(pod.v4(), APPLICATION_PORT)
}

/// Thousands of connections a second leave thousands of ports waiting: all ports are used, and those that wait are reused.
fn many_connections(pod: &Pod) -> io::Result<()> {
    pod.sysctl("net.ipv4.ip_local_port_range", "16000 65000")?;
    pod.sysctl("net.ipv4.tcp_tw_reuse", "1")
}
