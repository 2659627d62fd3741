//! Pods and Services as a ztunnel is told of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aquifer_model::{Protocol, Service, Snapshot, TrafficDistribution, Workload};

use super::index::{Index, Member, Place};
use crate::convert::address;
use crate::proto::workload as wire;
use wire::load_balancing::{HealthPolicy, Mode, Scope};

/// The network of all addresses: there is one.
const NETWORK: &str = "";

/// The name that a ztunnel asks for an address by.
pub(super) fn alias(ip: IpAddr) -> String {
    format!("{NETWORK}/{}", ip.to_canonical())
}

/// The address that is asked for by an alias.
pub(super) fn of_alias(name: &str) -> Option<IpAddr> {
    let ip: IpAddr = name.strip_prefix(NETWORK)?.strip_prefix('/')?.parse().ok()?;
    Some(ip.to_canonical())
}

/// Name of a Service's resource, and key of those that serve it.
pub(super) fn service_name(service: &Service) -> String {
    format!("{}/{}", service.name.namespace, service.hostname)
}

/// Before the address of an endpoint that no pod is known for.
const BARE: &str = "/discovery.k8s.io/EndpointSlice//";

/// Name of the resource of such an endpoint.
pub(super) fn bare_name(ip: IpAddr) -> String {
    format!("{BARE}{ip}")
}

/// The address of such a name.
pub(super) fn of_bare_name(name: &str) -> Option<IpAddr> {
    name.strip_prefix(BARE)?.parse().ok()
}

/// What a ztunnel makes of all Services that somebody is an endpoint of: it knows one state for all of them.
pub(super) struct Serving {
    healthy: bool,
    pub(super) services: BTreeMap<String, wire::PortList>,
}

impl Serving {
    /// Who is ready for one Service only is told to serve that one only.
    pub(super) fn of<'a>(mesh: &Snapshot, index: &Index, places: impl Iterator<Item = &'a Place>) -> Self {
        let known = places.filter_map(|place| {
            let slice = index.slice(&place.slice)?;
            let service = mesh.service(&slice.service).filter(|service| !service.unresolved)?;
            Some((place.ready, slice, service))
        });
        let known: Vec<_> = known.collect();
        let healthy = known.is_empty() || known.iter().any(|(ready, ..)| *ready);
        let mut found: BTreeMap<String, BTreeMap<u16, u16>> = BTreeMap::new();
        for (_, slice, service) in
            known.iter().filter(|(ready, _, service)| *ready || service.publish_not_ready || !healthy)
        {
            let ports = found.entry(service_name(service)).or_default();
            for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
                let target = slice.ports.iter().find(|p| p.protocol == Protocol::Tcp && p.name == port.name);
                if let Some(target) = target {
                    // While targets change it is ready at both.
                    ports.entry(port.port).or_insert(target.port);
                }
            }
        }
        Self { healthy, services: found.into_iter().map(|(name, ports)| (name, list(&ports))).collect() }
    }

    fn status(&self) -> i32 {
        if self.healthy { wire::WorkloadStatus::Healthy } else { wire::WorkloadStatus::Unhealthy }.into()
    }
}

fn list(ports: &BTreeMap<u16, u16>) -> wire::PortList {
    let port = |(service, target): (&u16, &u16)| wire::Port {
        service_port: (*service).into(),
        target_port: (*target).into(),
        ..wire::Port::default()
    };
    wire::PortList { ports: ports.iter().map(port).collect() }
}

/// What a pod is an endpoint of, by name or by an address that is its own.
pub(super) fn serving(mesh: &Snapshot, index: &Index, workload: &Workload) -> Serving {
    let own = if workload.host_network() { Vec::new() } else { held(mesh, workload) };
    let places = own.into_iter().map(Member::Address).chain([Member::Pod(workload.name().clone())]);
    let places: Vec<&Place> = places.flat_map(|member| index.places(&member)).collect();
    Serving::of(mesh, index, places.into_iter())
}

/// Addresses of a pod that nobody has a better right to, each once. A host-network pod has the node's.
pub(super) fn held(mesh: &Snapshot, workload: &Workload) -> Vec<IpAddr> {
    let holds = |ip: IpAddr| {
        workload.host_network()
            || mesh.workload_by_ip(ip).is_some_and(|holder| holder.name() == workload.name())
    };
    let mut held = Vec::with_capacity(workload.addresses().len());
    for ip in workload.addresses().iter().map(|ip| ip.to_canonical()) {
        if !workload.finished() && !held.contains(&ip) && holds(ip) {
            held.push(ip);
        }
    }
    held
}

/// A pod; `None` where it has no address.
pub(super) fn workload(
    mesh: &Snapshot,
    index: &Index,
    workload: &Workload,
    policies: Vec<String>,
) -> Option<wire::Address> {
    let addresses: Vec<Vec<u8>> = held(mesh, workload).into_iter().map(address).collect();
    if addresses.is_empty() {
        return None;
    }
    let serving = serving(mesh, index, workload);
    let identity = workload.identity();
    let (kind, owner) = workload.owner();
    let locality = mesh.node(workload.node()).filter(|node| !node.region.is_empty() || !node.zone.is_empty());
    let tunnel = if workload.in_mesh() { wire::TunnelProtocol::Hbone } else { wire::TunnelProtocol::None };
    let mode =
        if workload.host_network() { wire::NetworkMode::HostNetwork } else { wire::NetworkMode::Standard };
    Some(wire::Workload {
        name: workload.name().name().to_string(),
        namespace: identity.namespace.to_string(),
        addresses,
        network: NETWORK.to_owned(),
        tunnel_protocol: tunnel.into(),
        trust_domain: identity.trust_domain.as_str().to_owned(),
        service_account: identity.service_account.to_string(),
        node: workload.node().to_string(),
        canonical_name: workload.canonical_name().to_string(),
        canonical_revision: workload.canonical_revision().to_string(),
        workload_type: workload_type(kind).into(),
        workload_name: owner.to_string(),
        authorization_policies: policies,
        status: serving.status(),
        cluster_id: workload.name().cluster().to_owned(),
        uid: workload.name().to_string(),
        services: serving.services,
        locality: locality.map(|node| wire::Locality {
            region: node.region.to_string(),
            zone: node.zone.to_string(),
            subzone: String::new(),
        }),
        network_mode: mode.into(),
        waypoint: None,
        hostname: String::new(),
    })
    .map(|workload| wire::Address { r#type: Some(wire::address::Type::Workload(workload)) })
}

/// An endpoint that no pod is named for, at an address that nobody is known to have; `None` where it is not to be called. One among the
/// pods of a node is a pod that is not known yet, which may be in the mesh.
pub(super) fn bare(mesh: &Snapshot, index: &Index, ip: IpAddr) -> Option<wire::Address> {
    let places = index.places(&Member::Address(ip));
    let among_pods = || {
        mesh.in_mesh_networks(ip)
            || mesh.nodes().any(|node| node.pod_cidrs.iter().any(|net| net.contains(&ip)))
    };
    let first = index.slice(&places.first()?.slice)?;
    if mesh.workload_by_ip(ip).is_some() || among_pods() {
        return None;
    }
    let endpoint = first.endpoints.iter().find(|e| e.workload.is_none() && e.address.to_canonical() == ip)?;
    let node = mesh.node(&endpoint.node);
    let (region, zone) = node.map_or(("", ""), |node| (&*node.region, &*node.zone));
    let zone = if endpoint.zone.is_empty() { zone } else { &endpoint.zone };
    let serving = Serving::of(mesh, index, places.iter());
    let locality =
        wire::Locality { region: region.to_owned(), zone: zone.to_owned(), subzone: String::new() };
    let workload = wire::Workload {
        name: ip.to_string(),
        namespace: first.name.namespace.to_string(),
        addresses: vec![address(ip)],
        node: endpoint.node.to_string(),
        workload_type: wire::WorkloadType::Pod.into(),
        status: serving.status(),
        uid: bare_name(ip),
        services: serving.services,
        locality: (!region.is_empty() || !zone.is_empty()).then_some(locality),
        // Who calls the address itself means no Service.
        network_mode: wire::NetworkMode::HostNetwork.into(),
        ..wire::Workload::default()
    };
    Some(wire::Address { r#type: Some(wire::address::Type::Workload(workload)) })
}

/// A Service; `None` where somebody else serves its address, so that it is left alone.
pub(super) fn service(service: &Service) -> Option<wire::Address> {
    if service.unresolved {
        return None;
    }
    let ports = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let service = wire::Service {
        name: service.name.name.to_string(),
        namespace: service.name.namespace.to_string(),
        hostname: service.hostname.to_string(),
        addresses: service
            .vips
            .iter()
            .map(|ip| wire::NetworkAddress {
                network: NETWORK.to_owned(),
                address: address(ip.to_canonical()),
            })
            .collect(),
        ports: ports
            .map(|port| wire::Port {
                service_port: port.port.into(),
                target_port: 0,
                app_protocol: app_protocol(&port.app_protocol).into(),
            })
            .collect(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: load_balancing(service),
        canonical: true,
    };
    Some(wire::Address { r#type: Some(wire::address::Type::Service(service)) })
}

fn load_balancing(service: &Service) -> Option<wire::LoadBalancing> {
    let near = [Scope::Network, Scope::Region, Scope::Zone];
    let (mode, scopes) = match service.traffic_distribution {
        _ if service.internal_local => (Mode::Strict, vec![Scope::Node]),
        TrafficDistribution::Any => (Mode::UnspecifiedMode, Vec::new()),
        TrafficDistribution::PreferSameZone => (Mode::Failover, near.to_vec()),
        TrafficDistribution::PreferSameNode => {
            (Mode::Failover, [&near[..], &[Scope::Subzone, Scope::Node]].concat())
        }
    };
    let health = if service.publish_not_ready { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
    let said = wire::LoadBalancing {
        routing_preference: scopes.into_iter().map(i32::from).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    };
    (said != wire::LoadBalancing::default()).then_some(said)
}

/// What Istio calls what owns a pod; it knows these four.
fn workload_type(kind: &str) -> wire::WorkloadType {
    match kind {
        "deployment" => wire::WorkloadType::Deployment,
        "cronjob" => wire::WorkloadType::Cronjob,
        "job" => wire::WorkloadType::Job,
        _ => wire::WorkloadType::Pod,
    }
}

/// `appProtocol`, by Kubernetes' names and Istio's.
fn app_protocol(text: &str) -> wire::AppProtocol {
    match text {
        "http" => wire::AppProtocol::Http11,
        "http2" | "kubernetes.io/h2c" => wire::AppProtocol::Http2,
        "grpc" => wire::AppProtocol::Grpc,
        "tcp" => wire::AppProtocol::Tcp,
        "tls" | "https" => wire::AppProtocol::Tls,
        _ => wire::AppProtocol::Unknown,
    }
}
