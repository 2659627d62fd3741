//! Services and their endpoints, with what Kubernetes means by them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::{Addresses, NamespacedName, Text, WorkloadName};

/// Transport protocol of a port. The key of a service port is protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A Kubernetes Service that has something to resolve: at least a hostname, mostly virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Service {
    /// Namespace and name.
    pub name: NamespacedName,
    /// `name.namespace.svc.cluster-domain`.
    pub hostname: Arc<str>,
    /// ClusterIPs, external IPs and load-balancer ingress IPs. Empty for headless services.
    pub vips: Addresses,
    /// Those of `vips` that are no ClusterIP (external and load-balancer addresses). Such an address may be shared
    /// with others: ports that no Service claims are not refused there, and `internalTrafficPolicy` does not count.
    pub external_ips: Addresses,
    /// `spec.selector`, sorted by key; empty where there is none. A pod that it selects counts as serving before its
    /// endpoint is written, so that policies attached to the Service hold from its first moment.
    pub selector: Arc<[(Arc<str>, Arc<str>)]>,
    /// Its ports.
    pub ports: Box<[ServicePort]>,
    /// `clusterIP: None`: clients reach pod addresses themselves.
    pub headless: bool,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub session_affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`: only endpoints on the caller's node.
    pub internal_local: bool,
    /// `trafficDistribution`.
    pub traffic_distribution: TrafficDistribution,
    /// `publishNotReadyAddresses`: readiness does not count.
    pub publish_not_ready: bool,
    /// It has neither a selector nor EndpointSlices (somebody else serves its address), or is an ExternalName:
    /// connections to it pass through untouched.
    pub unresolved: bool,
}

/// One port of a [`Service`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ServicePort {
    /// `name`; empty where there is only one port. Endpoints are matched by it.
    pub name: Arc<str>,
    /// Protocol, half of the key.
    pub protocol: Protocol,
    /// The port that clients call, other half of the key.
    pub port: u16,
    /// `appProtocol`, empty where unset.
    pub app_protocol: Arc<str>,
}

/// `spec.trafficDistribution`: which endpoints are preferred while there are any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum TrafficDistribution {
    /// All alike.
    #[default]
    Any,
    /// `PreferClose` and `PreferSameZone`.
    PreferSameZone,
    /// `PreferSameNode`: same node, then same zone, then any.
    PreferSameNode,
}

/// One EndpointSlice (or the translator's own, made from pods by selector). Kubernetes bounds it to 1,000 endpoints.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub name: NamespacedName,
    /// The service it belongs to (label `kubernetes.io/service-name`), same namespace.
    pub service: NamespacedName,
    /// Ports of all its endpoints, already numbers (named target ports are resolved by who made the slice).
    pub ports: Box<[EndpointPort]>,
    /// The endpoints.
    pub endpoints: Box<[Endpoint]>,
}

/// A port that the endpoints of a slice serve.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EndpointPort {
    /// Name of the service port that it serves.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Target port.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Endpoint {
    /// Its address; a slice has one family.
    pub address: IpAddr,
    /// The pod behind it (`targetRef`), where it is one.
    pub workload: Option<WorkloadName>,
    /// Node that it is on, empty where unknown.
    pub node: Text,
    /// Zone that it is in, empty where unknown.
    pub zone: Text,
    /// `conditions.ready` (true where unset).
    pub ready: bool,
    /// `conditions.serving` (as `ready` where unset).
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
