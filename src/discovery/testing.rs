//! What a mesh of tests is made of: plain, to be changed where a test is about it.

use aquifer_model::{
    Membership, NamespacedName, PodUid, Protocol, Service, ServicePort, TrafficDistribution, TrustDomain,
    WorkloadFacts, WorkloadName,
};

/// A pod of the mesh on node `n1`, without an address.
pub(crate) fn pod(namespace: &str, name: &str) -> WorkloadFacts {
    WorkloadFacts {
        name: WorkloadName::pod("Kubernetes", namespace, name),
        uid: PodUid::new(format!("uid-{namespace}-{name}")),
        namespace: namespace.into(),
        trust_domain: TrustDomain::default(),
        service_account: "default".into(),
        addresses: Default::default(),
        node: "n1".into(),
        labels: vec![("app".into(), name.into())],
        named_ports: vec![],
        owner: None,
        canonical_name: None,
        canonical_revision: "latest".into(),
        membership: Membership::Desired,
        host_network: false,
        netns: None,
        terminating: false,
        finished: false,
    }
}

/// A Service with TCP port 80, without an address and a selector.
pub(crate) fn service(namespace: &str, name: &str) -> Service {
    Service {
        hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
        name: NamespacedName::new(namespace, name),
        vips: Default::default(),
        external_ips: Default::default(),
        selector: Default::default(),
        ports: [port("", Protocol::Tcp, 80)].into(),
        headless: false,
        session_affinity: None,
        internal_local: false,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
        unresolved: false,
    }
}

/// A port of a Service.
pub(crate) fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, app_protocol: "".into() }
}
