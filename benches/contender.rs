//! The contenders, and how each is made to stand between a client and a server.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    thread,
};

use anyhow::Result;
use aquifer_integration::{
    Pod,
    peers::{
        Peer,
        envoy::{Destination, Envoy, Expect, HboneClient, HboneServer},
        haproxy::{HaProxy, Hop},
    },
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    aquifer::{self, Nodes, Start},
    certificates::Authority,
    topology::{Topology, application},
};

const HBONE_PORT: u16 = 15008;
/// Where HAProxy's hops and Envoy's client listen in the pods.
const HAPROXY_PORT: u16 = 7001;
const ENVOY_PORT: u16 = 7002;
/// Streams on one of Envoy's tunnels, as Istio's waypoints have it.
const ENVOY_STREAMS: u32 = 100;

/// Who carries the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Nobody: the client calls the server.
    Direct,
    /// Two HAProxy hops without TLS: the floor of what two hops in user space cost.
    Haproxy,
    /// Two Envoys and HBONE between them: the yardstick.
    Envoy,
    /// Aquifer, client and server on different nodes.
    Aquifer,
    /// Aquifer, client and server on one node.
    AquiferOneNode,
}

impl Contender {
    /// All, in the order of the table.
    pub const ALL: [Self; 5] =
        [Self::Direct, Self::Haproxy, Self::Envoy, Self::Aquifer, Self::AquiferOneNode];

    /// The heading of its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "HAProxy pair",
            Self::Envoy => "Envoy HBONE pair",
            Self::Aquifer => "Aquifer",
            Self::AquiferOneNode => "Aquifer, one node",
        }
    }

    /// Whether proxies are measured, not only the path.
    pub fn has_proxies(self) -> bool {
        self != Self::Direct
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.title())
    }
}

/// A contender in place.
#[derive(Debug)]
pub struct Standing {
    /// Which one.
    pub contender: Contender,
    /// Where the load's client runs.
    pub client: Pod,
    /// What the client calls.
    pub target: SocketAddr,
    /// The proxies' processes, one a node; their descendants count too.
    pub processes: Vec<u32>,
    /// What version it is, where it has one.
    pub version: Option<String>,
    _peers: Vec<Peer>,
}

/// Puts contenders in place.
#[derive(Debug)]
pub struct Stage<'a> {
    topology: &'a Topology,
    dir: &'a Path,
    threads: usize,
    nodes: Option<Nodes>,
}

impl<'a> Stage<'a> {
    /// A stage on `topology`, with configuration and logs in `dir`. `threads` are the worker threads of each HAProxy and
    /// Envoy; without it as many as there are cores, which is also what both take by default.
    pub fn new(topology: &'a Topology, dir: &'a Path, threads: Option<usize>) -> Self {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        Self { topology, dir, threads: threads.unwrap_or_else(cores), nodes: None }
    }

    /// Starts a contender; both Aquifers share their nodes' processes, started with the first.
    ///
    /// # Errors
    /// Where a program is unavailable ([`aquifer_integration::peers::PeerError::is_unavailable`]) or does not start.
    pub fn start(&mut self, contender: Contender) -> Result<Standing> {
        let topology = self.topology;
        match contender {
            Contender::Direct => Ok(self.direct()),
            Contender::Haproxy => self.haproxy(),
            Contender::Envoy => self.envoy(),
            Contender::Aquifer => Ok(Standing::across(topology, self.nodes()?)),
            Contender::AquiferOneNode => Ok(Standing::one_node(topology, self.nodes()?)),
        }
    }

    fn nodes(&mut self) -> Result<&Nodes> {
        let nodes = match self.nodes.take() {
            Some(nodes) => nodes,
            None => Nodes::start(Start::new(&self.topology.bed, self.dir))?,
        };
        Ok(self.nodes.insert(nodes))
    }

    fn direct(&self) -> Standing {
        self.standing(Contender::Direct, application(&self.topology.plain_server), Vec::new(), None)
    }

    fn haproxy(&self) -> Result<Standing> {
        let haproxy = HaProxy::install()?;
        let server = &self.topology.plain_server;
        let between = SocketAddr::new(server.v4(), HAPROXY_PORT);
        let entry = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), HAPROXY_PORT);
        let hop = |pod: &Pod, name, listen, to| {
            haproxy.hop(pod.ns(), self.dir, name, &Hop { listen, to, threads: self.threads })
        };
        let peers = vec![
            hop(server, "haproxy-server", between, application(server))?,
            hop(&self.topology.plain_client, "haproxy-client", entry, between)?,
        ];
        Ok(self.standing(Contender::Haproxy, entry, peers, Some(haproxy.version().to_owned())))
    }

    fn envoy(&self) -> Result<Standing> {
        let envoy = Envoy::fetch(&aquifer_integration::peers::cache_dir())?;
        let Topology { plain_client: client, plain_server: server, .. } = self.topology;
        let authority = Authority::create(self.dir)?;
        let gateway = SocketAddr::new(server.v4(), HBONE_PORT);
        let entry = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ENVOY_PORT);
        let peers = vec![
            envoy.server(
                server.ns(),
                self.dir,
                "envoy-server",
                &HboneServer {
                    listen: gateway,
                    tls: authority.issue("envoy-server", &server.identity())?,
                    clients: Expect::TrustDomain("cluster.local".into()),
                    to: Destination::Authority,
                    max_streams: ENVOY_STREAMS,
                    threads: self.threads,
                },
            )?,
            envoy.client(
                client.ns(),
                self.dir,
                "envoy-client",
                &HboneClient {
                    listen: entry,
                    gateway,
                    authority: application(server).to_string(),
                    tls: authority.issue("envoy-client", &client.identity())?,
                    servers: Expect::Identities(vec![server.identity()]),
                    headers: Vec::new(),
                    threads: self.threads,
                },
            )?,
        ];
        Ok(self.standing(Contender::Envoy, entry, peers, Some(envoy.version().to_owned())))
    }

    /// A contender of the plain pods.
    fn standing(
        &self,
        contender: Contender,
        target: SocketAddr,
        peers: Vec<Peer>,
        version: Option<String>,
    ) -> Standing {
        Standing {
            contender,
            client: self.topology.plain_client.clone(),
            target,
            processes: peers.iter().map(Peer::pid).collect(),
            version,
            _peers: peers,
        }
    }
}

impl Standing {
    /// Aquifer on two nodes.
    pub(crate) fn across(topology: &Topology, nodes: &Nodes) -> Self {
        Self::aquifer(Contender::Aquifer, topology, &topology.server, nodes.processes())
    }

    /// Aquifer on one node, which has both pods; the other one has no part in it.
    pub(crate) fn one_node(topology: &Topology, nodes: &Nodes) -> Self {
        let processes = nodes.processes().into_iter().take(1).collect();
        Self::aquifer(Contender::AquiferOneNode, topology, &topology.near_server, processes)
    }

    fn aquifer(contender: Contender, topology: &Topology, server: &Pod, processes: Vec<u32>) -> Self {
        Self {
            contender,
            client: topology.client.clone(),
            target: application(server),
            processes,
            version: Some(aquifer::version()),
            _peers: Vec::new(),
        }
    }
}
