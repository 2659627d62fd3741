//! Random meshes from small pools of names and addresses, so that reuse, clashes and leftovers are common.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::fixtures::{ROOT, but, endpoint_port, ip, labels, node as plain_node, pod, service_port};
use crate::{
    Action, AuthorizationPolicy, Clause, Endpoint, EndpointSlice, Match, Membership, MtlsMode,
    NamespacedName, Node, PeerAuthentication, PodUid, PolicyScope, Protocol, Rule, Service, StringMatch,
    TrafficDistribution, Update, Workload, WorkloadName,
};

pub(super) const NAMESPACES: &[&str] = &["a", "b", ROOT];
pub(super) const NAMES: &[&str] = &["x", "y", "z"];
pub(super) const UIDS: &[&str] = &["1", "2", "3", "4"];
pub(super) const NODES: &[&str] = &["n1", "n2", "n3"];
/// Pods' and others' addresses: in networks that nodes may own, outside of them, both families, one written as mapped.
pub(super) const ADDRESSES: &[&str] =
    &["10.1.0.1", "10.1.0.2", "10.2.0.1", "::ffff:10.2.0.1", "203.0.113.1", "fd00:1::1", "fd00:2::1"];
pub(super) const VIPS: &[&str] = &["10.96.0.1", "10.96.0.2", "fd00:96::1", "192.0.2.1"];
pub(super) const DESTINATIONS: &[&str] = &[
    "10.1.0.1",
    "10.1.0.2",
    "10.2.0.1",
    "203.0.113.1",
    "fd00:1::1",
    "10.96.0.1",
    "10.96.0.2",
    "fd00:96::1",
    "192.0.2.1",
    "198.51.100.1",
];
pub(super) const PORTS: &[u16] = &[80, 53, 8080, 15008];

/// Batches of updates, in the order in which a mesh sees them.
pub(super) fn history() -> impl Strategy<Value = Vec<Vec<Update>>> {
    prop::collection::vec(prop::collection::vec(update(), 0..12), 1..6)
}

/// The same about one Service, `a/x` at 10.96.0.1, with many endpoints: what a choice depends on changes all the time.
pub(super) fn history_of_one_service() -> impl Strategy<Value = Vec<Vec<Update>>> {
    let service = service().prop_map(|service| {
        let mut plain = crate::fixtures::service("a/x", &["10.96.0.1"]);
        plain.ports = service.ports;
        Update::from(Service {
            session_affinity: service.session_affinity,
            internal_local: service.internal_local,
            traffic_distribution: service.traffic_distribution,
            publish_not_ready: service.publish_not_ready,
            ..plain
        })
    });
    let slice = slice().prop_map(|mut slice| {
        slice.service = NamespacedName::new("a", "x");
        slice.endpoints.iter_mut().filter(|e| e.ready).for_each(|e| e.workload = None);
        Update::from(slice)
    });
    let update = prop_oneof![
        3 => slice.clone(),
        2 => service.clone(),
        2 => node().prop_map(Update::from),
        1 => workload().prop_map(Update::from),
    ];
    let first = (service, prop::collection::vec(slice, 2..4)).prop_map(|(service, mut updates)| {
        updates.push(service);
        updates
    });
    let later = prop::collection::vec(prop::collection::vec(update, 0..4), 0..4);
    (first, later).prop_map(|(first, later)| std::iter::once(first).chain(later).collect())
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        6 => workload().prop_map(Update::from),
        2 => name().prop_map(|n| Update::WorkloadGone(WorkloadName::pod("Kubernetes", &n.namespace, &n.name))),
        5 => service().prop_map(Update::from),
        1 => name().prop_map(Update::ServiceGone),
        6 => slice().prop_map(Update::from),
        1 => name().prop_map(Update::EndpointSliceGone),
        4 => authorization().prop_map(Update::from),
        1 => name().prop_map(Update::AuthorizationGone),
        3 => authentication().prop_map(Update::from),
        1 => name().prop_map(Update::PeerAuthenticationGone),
        3 => node().prop_map(Update::from),
        1 => select(NODES).prop_map(|name| Update::NodeGone(name.into())),
    ]
}

fn name() -> impl Strategy<Value = NamespacedName> + Clone {
    (select(NAMESPACES), select(NAMES)).prop_map(|(namespace, name)| NamespacedName::new(namespace, name))
}

fn some_labels() -> impl Strategy<Value = Arc<[(Arc<str>, Arc<str>)]>> + Clone {
    subsequence(&[("app", "x"), ("tier", "y")][..], 0..=2).prop_map(|pairs| labels(&pairs))
}

fn rarely() -> impl Strategy<Value = bool> + Clone {
    prop::bool::weighted(0.15)
}

pub(super) fn workload() -> impl Strategy<Value = Workload> {
    let membership = select(&[Membership::Outside, Membership::Desired, Membership::Proven][..]);
    let state = (membership, rarely(), rarely(), rarely());
    (name(), select(UIDS), subsequence(ADDRESSES, 0..=2), select(NODES), some_labels(), state).prop_map(
        |(name, uid, addresses, node, labels, (membership, host_network, terminating, finished))| {
            but(pod(&name.to_string(), &addresses), |facts| {
                facts.uid = PodUid::new(uid);
                facts.node = node.into();
                facts.labels = labels.iter().map(|(k, v)| ((&**k).into(), (&**v).into())).collect();
                (facts.membership, facts.host_network) = (membership, host_network);
                (facts.terminating, facts.finished) = (terminating, finished);
            })
        },
    )
}

fn service() -> impl Strategy<Value = Service> + Clone {
    let spread = select(
        &[TrafficDistribution::Any, TrafficDistribution::PreferSameZone, TrafficDistribution::PreferSameNode]
            [..],
    );
    let traits = (rarely(), rarely(), rarely(), rarely(), spread, prop::bool::ANY);
    (name(), subsequence(VIPS, 0..=2), some_labels(), traits).prop_map(|(name, vips, selector, traits)| {
        let (sticky, internal_local, publish_not_ready, unresolved, traffic_distribution, two_ports) = traits;
        let udp = crate::ServicePort { protocol: Protocol::Udp, ..service_port("dns", 53) };
        let ports =
            if two_ports { vec![service_port("", 80), udp] } else { vec![service_port("", 80)] }.into();
        Service {
            selector,
            ports,
            // The last of the pool is everybody's external address.
            external_ips: vips.iter().filter(|vip| **vip == "192.0.2.1").map(|vip| ip(vip)).collect(),
            session_affinity: sticky.then_some(Duration::from_secs(60)),
            internal_local,
            traffic_distribution,
            publish_not_ready,
            unresolved,
            ..crate::fixtures::service(&name.to_string(), &vips)
        }
    })
}

fn slice() -> impl Strategy<Value = EndpointSlice> + Clone {
    let target = select(&[8080, 8080, 9090, 15006][..]);
    (name(), select(NAMES), target, any::<bool>(), prop::collection::vec(endpoint(), 0..4)).prop_map(
        |(name, service, target, dns, endpoints)| {
            let mut ports = vec![endpoint_port("", target)];
            if dns {
                ports.push(crate::EndpointPort { protocol: Protocol::Udp, ..endpoint_port("dns", 1053) });
            }
            let service = NamespacedName::new(name.namespace.clone(), service);
            EndpointSlice { name, service, ports: ports.into(), endpoints: endpoints.into() }
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> + Clone {
    let conditions = (prop::bool::weighted(0.6), any::<bool>(), any::<bool>());
    let place = (select(&["", "n1", "n2"][..]), select(&["", "", "east", "west"][..]));
    (select(ADDRESSES), prop::option::of(name()), place, conditions).prop_map(
        |(address, name, (node, zone), (ready, serving, terminating))| Endpoint {
            address: ip(address),
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
    let cidrs = subsequence(&["10.1.0.0/24", "10.2.0.0/16", "fd00:1::/64"][..], 0..=2);
    (select(NODES), select(&["", "east", "west"][..]), cidrs).prop_map(|(name, zone, cidrs)| Node {
        pod_cidrs: cidrs.iter().map(|net| net.parse().unwrap()).collect(),
        ..plain_node(name, zone, "10.0.0.0/8")
    })
}

fn scope() -> impl Strategy<Value = PolicyScope> {
    prop_oneof![
        Just(PolicyScope::Mesh),
        Just(PolicyScope::Namespace),
        some_labels().prop_map(PolicyScope::Selector),
        prop::collection::vec(name(), 0..3).prop_map(PolicyScope::Services),
        Just(PolicyScope::Elsewhere),
    ]
}

/// A policy for the whole mesh is in the root namespace, as translators see to.
fn home(name: NamespacedName, scope: &PolicyScope) -> NamespacedName {
    match scope {
        PolicyScope::Mesh => NamespacedName::new(ROOT, name.name),
        _ => name,
    }
}

fn authorization() -> impl Strategy<Value = AuthorizationPolicy> {
    let action = select(&[Action::Allow, Action::Deny, Action::Audit, Action::Unknown][..]);
    (name(), scope(), action, prop::collection::vec(rule(), 0..3)).prop_map(|(name, scope, action, rules)| {
        AuthorizationPolicy { name: home(name, &scope), scope, action, rules }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let clause = prop::collection::vec(a_match(), 0..3).prop_map(Clause);
    (prop::collection::vec(clause, 0..3), rarely()).prop_map(|(clauses, l7)| Rule { clauses, l7 })
}

fn a_match() -> impl Strategy<Value = Match> {
    let strings = |texts: &'static [&'static str]| {
        let strings = subsequence(texts, 0..=2);
        let parse =
            |texts: Vec<&str>| texts.into_iter().map(StringMatch::parse_principal).collect::<Vec<_>>();
        prop::option::weighted(0.2, strings.prop_map(parse)).prop_map(Option::unwrap_or_default)
    };
    let principals = || strings(&["cluster.local/ns/a/sa/x", "spiffe://cluster.local/ns/b/*", "*/sa/z", "*"]);
    let namespaces = || strings(&["a", "b", "aquifer-*", "*"]);
    let accounts = || strings(&["a/x", "b/*", "*/y"]);
    let nets = || {
        let nets = subsequence(&["10.1.0.0/24", "10.2.0.1/32", "fd00::/16", "0.0.0.0/0"][..], 0..=2);
        let parse = |nets: Vec<&str>| nets.into_iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
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
    let ports = prop::collection::vec((select(PORTS), mode()), 0..2);
    (name(), scope(), mode(), ports).prop_map(|(name, scope, mode, ports)| PeerAuthentication {
        name: home(name, &scope),
        scope,
        mode,
        ports,
    })
}
