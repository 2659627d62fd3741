//! Objects for tests, each with the fields that a story is about and plain values for the rest.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::{
    Access, Action, AuthorizationPolicy, Call, Carrier, Clause, Endpoint, EndpointPort, EndpointSlice,
    Identity, Match, Membership, Mesh, MeshConfig, MtlsMode, NamespacedName, Node, PeerAuthentication,
    PodUid, PolicyScope, Protocol, Resolution, Route, Rule, Service, ServicePort, Snapshot, StringMatch,
    Text, TrafficDistribution, TrustDomain, Update, Workload, WorkloadFacts, WorkloadName,
};

pub(crate) const ROOT: &str = "aquifer-system";

pub(crate) fn mesh() -> Mesh {
    Mesh::new(MeshConfig { root_namespace: ROOT.into(), networks: None })
}

/// A mesh of these objects.
pub(crate) fn snapshot(updates: impl IntoIterator<Item = Update>) -> Arc<Snapshot> {
    let mut mesh = mesh();
    mesh.apply(updates);
    mesh.snapshot()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// `namespace/name`.
pub(crate) fn named(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap();
    NamespacedName::new(namespace, name)
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Arc<[(Arc<str>, Arc<str>)]> {
    let mut labels: Vec<(Arc<str>, Arc<str>)> =
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    labels.sort();
    labels.into()
}

/// An enrolled pod on node `n1`, service account `default`, given as `namespace/name`.
pub(crate) fn pod(text: &str, addresses: &[&str]) -> Workload {
    let NamespacedName { namespace, name } = named(text);
    WorkloadFacts {
        name: WorkloadName::pod("Kubernetes", &namespace, &name),
        uid: PodUid::new(format!("uid-{namespace}-{name}")),
        namespace,
        trust_domain: TrustDomain::default(),
        service_account: "default".into(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        node: "n1".into(),
        labels: vec![],
        named_ports: vec![],
        owner: None,
        canonical_name: None,
        canonical_revision: "latest".into(),
        membership: Membership::Proven,
        host_network: false,
        netns: None,
        terminating: false,
        finished: false,
    }
    .into()
}

/// The pod with something else about it.
pub(crate) fn but(pod: Workload, change: impl FnOnce(&mut WorkloadFacts)) -> Workload {
    let mut facts = pod.facts();
    change(&mut facts);
    facts.into()
}

/// Labels of a pod, sorted.
pub(crate) fn pod_labels(pairs: &[(&str, &str)]) -> Vec<(Text, Text)> {
    let mut labels: Vec<(Text, Text)> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    labels.sort();
    labels
}

/// A Service with one TCP port 80, given as `namespace/name`.
pub(crate) fn service(text: &str, vips: &[&str]) -> Service {
    let name = named(text);
    Service {
        hostname: format!("{}.{}.svc.cluster.local", name.name, name.namespace).into(),
        name,
        vips: vips.iter().map(|a| ip(a)).collect(),
        external_ips: Default::default(),
        selector: labels(&[]),
        ports: [service_port("", 80)].into(),
        headless: vips.is_empty(),
        session_affinity: None,
        internal_local: false,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
        unresolved: false,
    }
}

pub(crate) fn service_port(name: &str, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol: Protocol::Tcp, port, app_protocol: "".into() }
}

/// A slice `SERVICE-0` with target port 8080 for the unnamed port.
pub(crate) fn slice(of: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        name: named(&format!("{of}-0")),
        service: named(of),
        ports: [endpoint_port("", 8080)].into(),
        endpoints: endpoints.into(),
    }
}

pub(crate) fn endpoint_port(name: &str, port: u16) -> EndpointPort {
    EndpointPort { name: name.into(), protocol: Protocol::Tcp, port }
}

/// A ready endpoint: the pod at its first address.
pub(crate) fn endpoint(pod: &Workload) -> Endpoint {
    Endpoint {
        workload: Some(pod.name().clone()),
        node: pod.node().clone(),
        ..bare_endpoint(&pod.addresses().first().unwrap().to_string())
    }
}

/// A ready endpoint that names no pod and no place.
pub(crate) fn bare_endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: ip(address),
        workload: None,
        node: "".into(),
        zone: "".into(),
        ready: true,
        serving: true,
        terminating: false,
    }
}

/// The endpoint while its pod shuts down and still answers.
pub(crate) fn draining(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: false, serving: true, terminating: true, ..endpoint }
}

/// The endpoint while its pod is not ready.
pub(crate) fn unready(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: false, serving: false, ..endpoint }
}

pub(crate) fn node(name: &str, zone: &str, cidr: &str) -> Node {
    Node { name: name.into(), region: "".into(), zone: zone.into(), pod_cidrs: vec![cidr.parse().unwrap()] }
}

/// A policy for its whole namespace.
pub(crate) fn policy(text: &str, action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy { name: named(text), scope: PolicyScope::Namespace, action, rules }
}

/// A rule whose clauses have one alternative each.
pub(crate) fn rule(matches: Vec<Match>) -> Rule {
    Rule { clauses: matches.into_iter().map(|m| Clause(vec![m])).collect(), l7: false }
}

/// The callers of a namespace.
pub(crate) fn from_namespace(namespace: &str) -> Match {
    Match { namespaces: vec![StringMatch::parse(namespace)], ..Match::default() }
}

pub(crate) fn to_port(port: u16) -> Match {
    Match { destination_ports: vec![port], ..Match::default() }
}

pub(crate) fn mtls(text: &str, scope: PolicyScope, mode: Option<MtlsMode>) -> PeerAuthentication {
    PeerAuthentication { name: named(text), scope, mode, ports: vec![] }
}

pub(crate) fn up<T: Into<Update>>(object: T) -> Update {
    object.into()
}

impl From<Workload> for Update {
    fn from(object: Workload) -> Self {
        Self::Workload(object.into())
    }
}

impl From<Service> for Update {
    fn from(object: Service) -> Self {
        Self::Service(object.into())
    }
}

impl From<EndpointSlice> for Update {
    fn from(object: EndpointSlice) -> Self {
        Self::EndpointSlice(object.into())
    }
}

impl From<Node> for Update {
    fn from(object: Node) -> Self {
        Self::Node(object.into())
    }
}

impl From<AuthorizationPolicy> for Update {
    fn from(object: AuthorizationPolicy) -> Self {
        Self::Authorization(object.into())
    }
}

impl From<PeerAuthentication> for Update {
    fn from(object: PeerAuthentication) -> Self {
        Self::PeerAuthentication(object.into())
    }
}

/// A TCP call with fixed random bits.
pub(crate) fn call<'a>(caller: &'a Workload, destination: &str) -> Call<'a> {
    Call { caller, destination: socket(destination), protocol: Protocol::Tcp, entropy: 7, exclude: &[] }
}

/// The route that a call takes; fails the test where it takes none.
#[track_caller]
pub(crate) fn route(snapshot: &Snapshot, call: &Call<'_>) -> Route {
    match snapshot.resolve(call) {
        Resolution::Route(route) => route,
        other => panic!("{} was not routed: {other:?}", call.destination),
    }
}

/// All targets that calls like this one reach, whatever the dice say, with their carriers; sorted.
pub(crate) fn targets(snapshot: &Snapshot, call: &Call<'_>) -> Vec<(SocketAddr, Carrier)> {
    let mut targets: Vec<_> = (0..200)
        .map(|entropy| route(snapshot, &Call { entropy, ..*call }))
        .map(|route| (route.target, route.carrier))
        .collect();
    targets.sort_by_key(|(target, _)| *target);
    targets.dedup();
    targets
}

pub(crate) fn addresses(snapshot: &Snapshot, call: &Call<'_>) -> Vec<String> {
    targets(snapshot, call).into_iter().map(|(target, _)| target.to_string()).collect()
}

/// Somebody's access to the pod's port 8080.
pub(crate) fn access<'a>(identity: Option<&'a Identity>, destination: &'a Workload) -> Access<'a> {
    let address = SocketAddr::new(destination.addresses().first().unwrap(), 8080);
    Access { identity, source: ip("10.1.0.99"), destination, address }
}

pub(crate) fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new(TrustDomain::default(), namespace, account)
}
