//! Where a connection goes: from what an application called to the endpoint that takes it and how it is carried.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::{NamespacedName, Protocol, Service, Snapshot, Workload};

/// The proxy's own ports in each pod: outbound and inbound capture, HBONE. Nobody may call them by way of the mesh,
/// since such a connection would run in a loop.
pub const PROXY_PORTS: [u16; 3] = [15001, 15006, 15008];

/// A connection (or datagram flow) that a workload opens.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Who calls.
    pub caller: &'a Workload,
    /// What it called, before any translation.
    pub destination: SocketAddr,
    /// With which transport protocol.
    pub protocol: Protocol,
    /// Random bits of this call; the same bits make the same choice.
    pub entropy: u64,
    /// Endpoints that just failed: not chosen again while there are others.
    pub exclude: &'a [SocketAddr],
}

/// What becomes of a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The mesh carries it.
    Route(Route),
    /// It goes where it was sent, untouched.
    Passthrough(Passthrough),
    /// It leads to a place of the mesh's own that is not known (yet): wait for a later snapshot, never send in clear.
    Unknown,
    /// It cannot succeed.
    Refuse(Refusal),
}

/// Where the mesh carries a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Address and port at the destination (of a Service: endpoint and target port).
    pub target: SocketAddr,
    /// The workload there, if it is one.
    pub workload: Option<Arc<Workload>>,
    /// The Service that was called, if it was one.
    pub service: Option<Arc<Service>>,
    /// How to carry it.
    pub carrier: Carrier,
}

/// How a call is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// In an HBONE tunnel: exactly if the workload is in the mesh.
    Tunnel,
    /// As it is: the destination is not in the mesh.
    Plaintext,
}

/// Why a call passes through untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passthrough {
    /// Nothing that the mesh knows or owns.
    OutsideMesh,
    /// A Service whose endpoints Kubernetes does not tell (ExternalName, selectorless without EndpointSlices).
    UnresolvedService(NamespacedName),
}

/// Why a call cannot succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the messages say.
pub enum Refusal {
    #[error("{0} is a port of the mesh's own proxy; call the port of the application")]
    ProxyPort(SocketAddr),
    #[error("Service {service} has no port {port}/{protocol}; call one that it has")]
    NoSuchPort { service: NamespacedName, port: u16, protocol: Protocol },
    #[error(
        "Service {service} has no endpoint for port {port} that is ready or still serves; see why its pods are not ready"
    )]
    NoEndpoint { service: NamespacedName, port: u16 },
    #[error(
        "Service {service} is internalTrafficPolicy: Local and has no endpoint for port {port} on node {node}"
    )]
    NoLocalEndpoint { service: NamespacedName, port: u16, node: Arc<str> },
    #[error("Service {service} has endpoints for port {port}, but none with an {family} address")]
    NoEndpointOfFamily { service: NamespacedName, port: u16, family: Family },
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address; an IPv4 address written as IPv6 is IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Refusal {
    /// Short reason for flow records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ProxyPort(_) => "proxy-port",
            Self::NoSuchPort { .. } => "no-such-port",
            Self::NoEndpoint { .. } | Self::NoLocalEndpoint { .. } | Self::NoEndpointOfFamily { .. } => {
                "no-endpoint"
            }
        }
    }
}

impl Passthrough {
    /// Short reason for flow records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OutsideMesh => "outside-mesh",
            Self::UnresolvedService(_) => "unresolved-service",
        }
    }
}

impl fmt::Display for Passthrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Snapshot {
    /// Where `call` goes.
    pub fn resolve(&self, call: &Call<'_>) -> Resolution {
        let _ = call;
        todo!()
    }
}
