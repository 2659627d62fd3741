//! Random meshes of few names and addresses, so that they meet.

use std::sync::Arc;

use aquifer_model::{
    Action, AuthorizationPolicy, Clause, Endpoint, EndpointPort, EndpointSlice, Match, Membership, MtlsMode,
    NamespacedName, Node, PeerAuthentication, PodUid, PolicyScope, Protocol, Rule, Service, StringMatch,
    Update, Workload, WorkloadFacts, WorkloadName,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::testing;

pub(super) const ROOT: &str = "aquifer-system";
pub(super) const NAMESPACES: &[&str] = &["a", "b", ROOT];
pub(super) const NAMES: &[&str] = &["x", "y", "z"];
const NODES: &[&str] = &["n1", "n2"];
pub(super) const ADDRESSES: &[&str] = &["10.1.0.1", "10.1.0.2", "10.2.0.1", "::ffff:10.2.0.1", "fd00:1::1"];
const VIPS: &[&str] = &["10.96.0.1", "10.96.0.2", "192.0.2.1"];
const PORTS: &[u16] = &[80, 8080, 9090];
pub(super) const CALLED_PORTS: &[u16] = &[80, 8080, 9090, 1];

pub(super) fn history() -> impl Strategy<Value = Vec<Vec<Update>>> {
    vec(vec(update(), 0..10), 1..5)
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        6 => workload().prop_map(|w| Update::Workload(w.into())),
        2 => name().prop_map(|n| Update::WorkloadGone(WorkloadName::pod("Kubernetes", &n.namespace, &n.name))),
        5 => service().prop_map(|s| Update::Service(s.into())),
        1 => name().prop_map(Update::ServiceGone),
        6 => slice().prop_map(|s| Update::EndpointSlice(s.into())),
        1 => name().prop_map(Update::EndpointSliceGone),
        4 => authorization().prop_map(|p| Update::Authorization(p.into())),
        1 => name().prop_map(Update::AuthorizationGone),
        3 => authentication().prop_map(|p| Update::PeerAuthentication(p.into())),
        1 => name().prop_map(Update::PeerAuthenticationGone),
        2 => node().prop_map(|n| Update::Node(n.into())),
        1 => select(NODES).prop_map(|name| Update::NodeGone(name.into())),
    ]
}

fn name() -> impl Strategy<Value = NamespacedName> + Clone {
    (select(NAMESPACES), select(NAMES)).prop_map(|(namespace, name)| NamespacedName::new(namespace, name))
}

type Labels = Vec<(&'static str, &'static str)>;

fn some_labels() -> impl Strategy<Value = Labels> + Clone {
    subsequence(&[("app", "x"), ("tier", "y")][..], 0..=2)
}

fn pairs(labels: &[(&str, &str)]) -> Arc<[(Arc<str>, Arc<str>)]> {
    labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn rarely() -> impl Strategy<Value = bool> + Clone {
    prop::bool::weighted(0.15)
}

fn pod(namespace: &str, name: &str) -> WorkloadFacts {
    WorkloadFacts { service_account: name.into(), ..testing::pod(namespace, name) }
}

/// Somebody who calls.
pub(super) fn caller() -> Workload {
    pod("a", "caller").into()
}

/// One of many.
pub(super) fn pod_at(namespace: &str, name: &str, nth: u16) -> Workload {
    let [high, low] = nth.to_be_bytes();
    WorkloadFacts { addresses: [[10, 1, high, low].into()].into_iter().collect(), ..pod(namespace, name) }
        .into()
}

fn workload() -> impl Strategy<Value = Workload> {
    let membership = select(&[Membership::Outside, Membership::Desired, Membership::Proven][..]);
    let state = (membership, rarely(), rarely(), rarely());
    let uid = select(&["1", "2", "3"][..]);
    (name(), uid, subsequence(ADDRESSES, 0..=2), select(NODES), some_labels(), state).prop_map(
        |(name, uid, addresses, node, labels, (membership, host_network, terminating, finished))| {
            WorkloadFacts {
                uid: PodUid::new(uid),
                addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
                node: node.into(),
                labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                membership,
                host_network,
                terminating,
                finished,
                ..pod(&name.namespace, &name.name)
            }
            .into()
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let traits = (rarely(), rarely(), any::<bool>());
    (name(), subsequence(VIPS, 0..=2), some_labels(), traits).prop_map(
        |(name, vips, selector, (publish_not_ready, unresolved, more))| {
            let mut service = testing::service(&name.namespace, &name.name);
            if more {
                let more = [testing::port("b", Protocol::Tcp, 9090), testing::port("dns", Protocol::Udp, 53)];
                service.ports = service.ports.into_iter().chain(more).collect();
            }
            Service {
                vips: vips.iter().map(|ip| ip.parse().unwrap()).collect(),
                selector: pairs(&selector),
                publish_not_ready,
                unresolved,
                ..service
            }
        },
    )
}

/// The nth slice of a Service, with these pods.
pub(super) fn slice_of(service: &Service, nth: usize, pods: &[Workload]) -> EndpointSlice {
    EndpointSlice {
        name: NamespacedName::new(service.name.namespace.clone(), format!("{}-{nth}", service.name.name)),
        service: service.name.clone(),
        ports: [EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: pods
            .iter()
            .map(|pod| Endpoint {
                address: pod.addresses().first().unwrap(),
                workload: Some(pod.name().clone()),
                node: pod.node().clone(),
                zone: "".into(),
                ready: true,
                serving: true,
                terminating: false,
            })
            .collect(),
    }
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    (name(), select(NAMES), select(&[8080, 9090][..]), any::<bool>(), vec(endpoint(), 0..4)).prop_map(
        |(name, service, target, more, endpoints)| {
            let port = |name: &str, protocol, port| EndpointPort { name: name.into(), protocol, port };
            let mut ports = vec![port("", Protocol::Tcp, target)];
            if more {
                ports.push(port("b", Protocol::Tcp, 9091));
                ports.push(port("dns", Protocol::Udp, 1053));
            }
            let service = NamespacedName::new(name.namespace.clone(), service);
            EndpointSlice { name, service, ports: ports.into(), endpoints: endpoints.into() }
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let conditions = (prop::bool::weighted(0.6), any::<bool>(), any::<bool>());
    let place = (select(&["", "n1", "n2"][..]), select(&["", "east"][..]));
    let address =
        select(&["10.1.0.1", "10.1.0.2", "10.2.0.1", "::ffff:10.2.0.1", "fd00:1::1", "203.0.113.1"][..]);
    (address, prop::option::of(name()), place, conditions).prop_map(
        |(address, name, (node, zone), (ready, serving, terminating))| Endpoint {
            address: address.parse().unwrap(),
            workload: name.map(|n| WorkloadName::pod("Kubernetes", &n.namespace, &n.name)),
            node: node.into(),
            zone: zone.into(),
            ready,
            serving,
            terminating,
        },
    )
}

fn node() -> impl Strategy<Value = Node> {
    let cidrs = subsequence(&["10.1.0.0/24", "10.2.0.0/16"][..], 0..=2);
    let place = (select(&["", "r"][..]), select(&["", "east", "west"][..]));
    (select(NODES), place, cidrs).prop_map(|(name, (region, zone), cidrs)| Node {
        name: name.into(),
        region: region.into(),
        zone: zone.into(),
        pod_cidrs: cidrs.iter().map(|net| net.parse().unwrap()).collect(),
    })
}

fn selector() -> impl Strategy<Value = PolicyScope> {
    some_labels().prop_map(|labels| PolicyScope::Selector(pairs(&labels)))
}

fn scope() -> impl Strategy<Value = PolicyScope> {
    prop_oneof![
        1 => Just(PolicyScope::Mesh),
        1 => Just(PolicyScope::Namespace),
        2 => selector(),
        2 => vec(name(), 0..3).prop_map(PolicyScope::Services),
        1 => Just(PolicyScope::Elsewhere),
    ]
}

/// One for the whole mesh is in the root namespace, as sources see to.
fn home(name: NamespacedName, scope: &PolicyScope) -> NamespacedName {
    if *scope == PolicyScope::Mesh { NamespacedName::new(ROOT, name.name) } else { name }
}

/// A denial of pods with labels.
pub(super) fn selecting(namespace: &str, name: &str, labels: &[(&str, &str)]) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: NamespacedName::new(namespace, name),
        scope: PolicyScope::Selector(pairs(labels)),
        action: Action::Deny,
        rules: vec![],
    }
}

/// A denial of a namespace's pods.
pub(super) fn selecting_all(namespace: &str, name: &str) -> AuthorizationPolicy {
    AuthorizationPolicy { scope: PolicyScope::Namespace, ..selecting(namespace, name, &[]) }
}

/// Mutual TLS for all pods with labels (all of the namespace without), but for ports.
pub(super) fn strict(
    namespace: &str,
    name: &str,
    labels: &[(&str, &str)],
    but: &[u16],
) -> PeerAuthentication {
    let scope = if labels.is_empty() { PolicyScope::Namespace } else { PolicyScope::Selector(pairs(labels)) };
    PeerAuthentication {
        name: NamespacedName::new(namespace, name),
        scope,
        mode: Some(MtlsMode::Strict),
        ports: but.iter().map(|port| (*port, Some(MtlsMode::Permissive))).collect(),
    }
}

fn authorization() -> impl Strategy<Value = AuthorizationPolicy> {
    let action = select(&[Action::Allow, Action::Deny, Action::Audit, Action::Unknown][..]);
    (name(), scope(), action, vec(rule(), 0..3)).prop_map(|(name, scope, action, rules)| {
        AuthorizationPolicy { name: home(name, &scope), scope, action, rules }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let clause = vec(a_match(), 0..3).prop_map(Clause);
    (vec(clause, 0..3), rarely()).prop_map(|(clauses, l7)| Rule { clauses, l7 })
}

fn a_match() -> impl Strategy<Value = Match> {
    let strings = |texts: &'static [&'static str]| {
        let parse =
            |texts: Vec<&str>| texts.into_iter().map(StringMatch::parse_principal).collect::<Vec<_>>();
        prop::option::weighted(0.25, subsequence(texts, 0..=2).prop_map(parse))
            .prop_map(Option::unwrap_or_default)
    };
    // A text that is empty, which no source lets through, and must not mean who has no identity.
    let principals =
        || strings(&["cluster.local/ns/a/sa/x", "spiffe://cluster.local/ns/b/*", "*/sa/z", "*", ""]);
    let namespaces = || strings(&["a", "b", "aquifer-*", "*", ""]);
    // Istio's have no wildcards.
    let accounts = || strings(&["a/x", "b/y", "odd", "a/x/y"]);
    let nets = || {
        let parse = |nets: Vec<&str>| nets.into_iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        let nets = subsequence(&["10.1.0.0/24", "10.2.0.1/32", "fd00::/16", "0.0.0.0/0"][..], 0..=2);
        prop::option::weighted(0.2, nets.prop_map(parse)).prop_map(Option::unwrap_or_default)
    };
    let ports = || prop::option::weighted(0.2, subsequence(PORTS, 0..=2)).prop_map(Option::unwrap_or_default);
    let wanted = (principals(), namespaces(), accounts(), nets(), nets(), ports());
    let unwanted = (principals(), namespaces(), accounts(), nets(), nets(), ports());
    (wanted, unwanted, any::<bool>()).prop_map(|(yes, no, with_not)| {
        let mut m = Match {
            principals: yes.0,
            namespaces: yes.1,
            service_accounts: yes.2,
            source_ips: yes.3,
            destination_ips: yes.4,
            destination_ports: yes.5,
            ..Match::default()
        };
        if with_not {
            (m.not_principals, m.not_namespaces, m.not_service_accounts) = (no.0, no.1, no.2);
            (m.not_source_ips, m.not_destination_ips, m.not_destination_ports) = (no.3, no.4, no.5);
        }
        m
    })
}

fn authentication() -> impl Strategy<Value = PeerAuthentication> {
    let mode = || prop::option::of(select(&[MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable][..]));
    let scope = prop_oneof![1 => Just(PolicyScope::Mesh), 1 => Just(PolicyScope::Namespace), 2 => selector()];
    (name(), scope, mode(), vec((select(PORTS), mode()), 0..3)).prop_map(|(name, scope, mode, ports)| {
        PeerAuthentication { name: home(name, &scope), scope, mode, ports }
    })
}
