//! Where a connection goes: from what an application called to the endpoint that takes it and how it is carried.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::pick::{Choice, Plan, Tier, Wish};
use crate::{Endpoint, NamespacedName, Protocol, Service, Snapshot, Text, TrafficDistribution, Workload};

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
    NoLocalEndpoint { service: NamespacedName, port: u16, node: Text },
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

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
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
    ///
    /// A Service that has the called address and port comes first, then the workload that has the address. What neither
    /// knows is refused where a ClusterIP lacks the port, must wait inside the mesh's networks, and passes through
    /// everywhere else (node ports, host-network pods and the Internet among it).
    pub fn resolve(&self, call: &Call<'_>) -> Resolution {
        let destination = SocketAddr::new(call.destination.ip().to_canonical(), call.destination.port());
        let (ip, port) = (destination.ip(), destination.port());
        if PROXY_PORTS.contains(&port) {
            return Resolution::Refuse(Refusal::ProxyPort(destination));
        }
        let called = self.called_service(ip, port, call.protocol);
        let workload = match called {
            Called::Other(_) | Called::Nothing => self.workload_by_ip(ip),
            Called::Port(..) | Called::Unresolved(_) => None,
        };
        match called {
            Called::Port(plan, index) => self.resolve_service(plan, index, ip, call),
            Called::Unresolved(service) => {
                Resolution::Passthrough(Passthrough::UnresolvedService(service.name.clone()))
            }
            Called::Other(_) | Called::Nothing if workload.is_some() => {
                self.route(destination, workload, None)
            }
            Called::Other(service) => {
                let (service, protocol) = (service.name.clone(), call.protocol);
                Resolution::Refuse(Refusal::NoSuchPort { service, port, protocol })
            }
            Called::Nothing if self.in_mesh_networks(ip) => Resolution::Unknown,
            Called::Nothing => Resolution::Passthrough(Passthrough::OutsideMesh),
        }
    }

    fn called_service(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Called<'_> {
        let mut called = Called::Nothing;
        for claimant in self.vips.claimants(&ip) {
            let Some(plan) = self.services.get(&claimant.0.name) else { continue };
            match plan.port(port, protocol) {
                _ if plan.service.unresolved => return Called::Unresolved(&plan.service),
                Some(index) => return Called::Port(plan, index),
                None if !plan.service.external_ips.contains(&ip) && matches!(called, Called::Nothing) => {
                    called = Called::Other(&plan.service);
                }
                None => {}
            }
        }
        called
    }

    fn resolve_service(&self, plan: &Plan, port: usize, ip: IpAddr, call: &Call<'_>) -> Resolution {
        let (service, family) = (&plan.service, Family::of(ip));
        let local = service.internal_local && !service.external_ips.contains(&ip);
        let tiers = Tier::of(service, local);
        let own = call.caller.addresses().iter().map(|ip| ip.to_canonical());
        let client = || own.clone().find(|ip| Family::of(*ip) == family).or_else(|| own.clone().next());
        let wish = Wish {
            port,
            family,
            node: call.caller.node(),
            zone: match service.traffic_distribution {
                TrafficDistribution::Any => "",
                _ => self.node(call.caller.node()).map_or("", |node| &node.zone),
            },
            choice: match service.session_affinity.and_then(|_| client()) {
                Some(client) => Choice::Sticky(client),
                None => Choice::Random(call.entropy),
            },
        };
        let fresh = |endpoint: &Endpoint, address| {
            if call.exclude.contains(&address) { None } else { self.settled(endpoint, address) }
        };
        let settled = |endpoint: &Endpoint, address| self.settled(endpoint, address);
        let mut found = tiers.iter().find_map(|tier| plan.choose(&wish, *tier, call.exclude.len(), fresh));
        if found.is_none() && !call.exclude.is_empty() {
            found = tiers.iter().find_map(|tier| plan.choose(&wish, *tier, 0, settled));
        }
        if let Some((target, workload)) = found {
            if PROXY_PORTS.contains(&target.port()) {
                return Resolution::Refuse(Refusal::ProxyPort(target));
            }
            return self.route(target, workload, Some(service));
        }
        if tiers.iter().any(|tier| plan.populated(&wish, *tier)) {
            return Resolution::Unknown;
        }
        let (service, port) = (service.name.clone(), service.ports[port].port);
        Resolution::Refuse(if plan.any(wish.port, family) {
            Refusal::NoLocalEndpoint { service, port, node: call.caller.node().clone() }
        } else if plan.any(wish.port, family.other()) {
            Refusal::NoEndpointOfFamily { service, port, family }
        } else {
            Refusal::NoEndpoint { service, port }
        })
    }

    /// What is known to be behind an endpoint: a workload, or something outside the mesh's networks (`Some(None)`).
    ///
    /// `None`: its slice and the workloads disagree, since one of the two is older, or a pod's address is claimed twice.
    /// To call it could reach another pod, or a pod of the mesh in clear.
    #[expect(clippy::option_option, reason = "not known, known and no workload, known and a workload")]
    fn settled(&self, endpoint: &Endpoint, address: SocketAddr) -> Option<Option<&Arc<Workload>>> {
        let holder = self.workload_by_ip(address.ip());
        match (&endpoint.workload, holder) {
            (Some(name), Some(holder)) if holder.name() == name => Some(Some(holder)),
            (Some(name), _) => {
                let named = self.workload(name).filter(|named| named.host_network() && !named.finished());
                named.map(Some)
            }
            (None, Some(holder)) => Some(Some(holder)),
            (None, None) => (!self.in_mesh_networks(address.ip())).then_some(None),
        }
    }

    fn route(
        &self,
        target: SocketAddr,
        workload: Option<&Arc<Workload>>,
        service: Option<&Arc<Service>>,
    ) -> Resolution {
        let carrier = match workload {
            Some(workload) if workload.in_mesh() => Carrier::Tunnel,
            _ => Carrier::Plaintext,
        };
        Resolution::Route(Route { target, workload: workload.cloned(), service: service.cloned(), carrier })
    }
}

/// What the Services that have an address say to a port.
enum Called<'a> {
    /// This one has it.
    Port(&'a Plan, usize),
    /// The address is a Service's that somebody else serves.
    Unresolved(&'a Service),
    /// The address is this one's ClusterIP, and it has other ports.
    Other(&'a Service),
    Nothing,
}

#[cfg(test)]
mod tests;
