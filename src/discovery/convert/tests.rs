use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aquifer_model::{
    Action, AuthorizationPolicy, Clause, Endpoint, EndpointPort, EndpointSlice, Match, Membership, MtlsMode,
    NamespacedName, Node, PeerAuthentication, PodUid, PolicyScope, Protocol, Rule, Service, ServicePort,
    StringMatch, Text, TrafficDistribution, TrustDomain, Update, Workload, WorkloadFacts, WorkloadName,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

type Labels = Arc<[(Arc<str>, Arc<str>)]>;

fn text() -> impl Strategy<Value = Arc<str>> + Clone {
    prop_oneof![Just(String::new()), "[a-z]{1,8}", "\\PC{0,20}"].prop_map(Into::into)
}

fn word() -> impl Strategy<Value = Arc<str>> + Clone {
    "[a-z0-9.-]{1,20}".prop_map(Into::into)
}

fn name() -> impl Strategy<Value = NamespacedName> + Clone {
    (word(), word()).prop_map(|(namespace, name)| NamespacedName::new(namespace, name))
}

fn labels() -> impl Strategy<Value = Labels> {
    vec((text(), text()), 0..4).prop_map(|mut pairs| {
        pairs.sort();
        pairs.into()
    })
}

fn workload() -> impl Strategy<Value = Workload> {
    let states = select(vec![Membership::Outside, Membership::Desired, Membership::Proven]);
    let names = (name(), text(), word(), text());
    let place = (vec(any::<IpAddr>(), 0..3), text(), labels(), vec((text(), any::<u16>()), 0..3));
    let owned = (prop::option::of((text(), text())), prop::option::of(text()));
    let kind = (owned, text(), states, any::<(bool, bool, bool)>());
    (names, place, kind).prop_map(|(names, place, kind)| {
        let (name, uid, trust_domain, service_account) = names;
        let (addresses, node, labels, named_ports) = place;
        let ((owner, canonical_name), canonical_revision, membership, flags) = kind;
        let text = |text: &str| Text::from(text);
        WorkloadFacts {
            name: WorkloadName::pod("Kubernetes", &name.namespace, &name.name),
            uid: PodUid::new(uid),
            namespace: name.namespace.clone(),
            trust_domain: TrustDomain::new(&trust_domain).unwrap(),
            service_account,
            addresses: addresses.into_iter().collect(),
            node: text(&node),
            labels: labels.iter().map(|(key, value)| (text(key), text(value))).collect(),
            named_ports: named_ports.iter().map(|(name, port)| (text(name), *port)).collect(),
            owner: owner.map(|(kind, name)| (text(&kind), text(&name))),
            canonical_name: canonical_name.as_deref().map(text),
            canonical_revision: text(&canonical_revision),
            membership,
            host_network: flags.0,
            netns: None,
            terminating: flags.1,
            finished: flags.2,
        }
        .into()
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn service() -> impl Strategy<Value = Service> {
    let spread = select(vec![
        TrafficDistribution::Any,
        TrafficDistribution::PreferSameZone,
        TrafficDistribution::PreferSameNode,
    ]);
    let port = (text(), protocol(), any::<u16>(), text())
        .prop_map(|(name, protocol, port, app_protocol)| ServicePort { name, protocol, port, app_protocol });
    let addresses = (vec(any::<IpAddr>(), 0..3), vec(any::<IpAddr>(), 0..3));
    let affinity = prop::option::of((0..=86_400_u64).prop_map(Duration::from_secs));
    let flags = any::<(bool, bool, bool, bool)>();
    (name(), text(), addresses, labels(), vec(port, 0..3), affinity, spread, flags).prop_map(
        |(name, hostname, (vips, external), selector, ports, session_affinity, spread, flags)| Service {
            name,
            hostname,
            vips: vips.into_iter().collect(),
            external_ips: external.into_iter().collect(),
            selector,
            ports: ports.into(),
            headless: flags.0,
            session_affinity,
            internal_local: flags.1,
            traffic_distribution: spread,
            publish_not_ready: flags.2,
            unresolved: flags.3,
        },
    )
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (text(), protocol(), any::<u16>()).prop_map(|(name, protocol, port)| EndpointPort {
        name,
        protocol,
        port,
    });
    let workload = prop::option::of(word()).prop_map(|name| name.map(WorkloadName::from_wire));
    let endpoint = (any::<IpAddr>(), workload, text(), text(), any::<(bool, bool, bool)>()).prop_map(
        |(address, workload, node, zone, (ready, serving, terminating))| Endpoint {
            address,
            workload,
            node: (&*node).into(),
            zone: (&*zone).into(),
            ready,
            serving,
            terminating,
        },
    );
    (name(), name(), vec(port, 0..3), vec(endpoint, 0..4)).prop_map(|(name, service, ports, endpoints)| {
        EndpointSlice { name, service, ports: ports.into(), endpoints: endpoints.into() }
    })
}

fn scope() -> impl Strategy<Value = PolicyScope> {
    prop_oneof![
        Just(PolicyScope::Mesh),
        Just(PolicyScope::Namespace),
        labels().prop_map(PolicyScope::Selector),
        vec(name(), 0..3).prop_map(PolicyScope::Services),
        Just(PolicyScope::Elsewhere),
    ]
}

fn texts() -> impl Strategy<Value = Vec<StringMatch>> {
    let text = prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Present),
    ];
    vec(text, 0..3)
}

fn networks() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let network = (any::<IpAddr>(), 0..=128_u8).prop_map(|(address, length)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        ipnet::IpNet::new(address, length.min(longest)).unwrap()
    });
    vec(network, 0..3)
}

fn a_match() -> impl Strategy<Value = Match> {
    let half = || (texts(), texts(), texts(), networks(), networks(), vec(any::<u16>(), 0..3));
    (half(), half()).prop_map(|(yes, no)| Match {
        principals: yes.0,
        not_principals: no.0,
        namespaces: yes.1,
        not_namespaces: no.1,
        service_accounts: yes.2,
        not_service_accounts: no.2,
        source_ips: yes.3,
        not_source_ips: no.3,
        destination_ips: yes.4,
        not_destination_ips: no.4,
        destination_ports: yes.5,
        not_destination_ports: no.5,
    })
}

fn authorization() -> impl Strategy<Value = AuthorizationPolicy> {
    let action = select(vec![Action::Allow, Action::Deny, Action::Audit, Action::Unknown]);
    let rule = (vec(vec(a_match(), 0..3).prop_map(Clause), 0..3), any::<bool>())
        .prop_map(|(clauses, l7)| Rule { clauses, l7 });
    (name(), scope(), action, vec(rule, 0..3)).prop_map(|(name, scope, action, rules)| AuthorizationPolicy {
        name,
        scope,
        action,
        rules,
    })
}

fn authentication() -> impl Strategy<Value = PeerAuthentication> {
    let mode = || prop::option::of(select(vec![MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable]));
    (name(), scope(), mode(), vec((any::<u16>(), mode()), 0..3))
        .prop_map(|(name, scope, mode, ports)| PeerAuthentication { name, scope, mode, ports })
}

fn node() -> impl Strategy<Value = Node> {
    (word(), text(), text(), networks()).prop_map(|(name, region, zone, pod_cidrs)| Node {
        name,
        region,
        zone,
        pod_cidrs,
    })
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        workload().prop_map(|w| Update::Workload(w.into())),
        word().prop_map(|name| Update::WorkloadGone(WorkloadName::from_wire(name))),
        service().prop_map(|s| Update::Service(s.into())),
        name().prop_map(Update::ServiceGone),
        slice().prop_map(|s| Update::EndpointSlice(s.into())),
        name().prop_map(Update::EndpointSliceGone),
        authorization().prop_map(|p| Update::Authorization(p.into())),
        name().prop_map(Update::AuthorizationGone),
        authentication().prop_map(|p| Update::PeerAuthentication(p.into())),
        name().prop_map(Update::PeerAuthenticationGone),
        node().prop_map(|n| Update::Node(n.into())),
        word().prop_map(Update::NodeGone),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn every_update_survives_the_way(update in update()) {
        let Encoded { of, name, value } = encode(&update);
        let back = match &value {
            Some(value) => decode(of, &name, value, &mut Pool::default()),
            None => removed(of, &name),
        };
        prop_assert_eq!(back.as_ref(), Ok(&update));
        // A client says what it has by the bytes that it would write itself.
        prop_assert_eq!(encode(&back?).value, value);
    }

    #[test]
    fn bytes_that_were_changed_are_read_or_refused_by_name(
        update in update(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let Encoded { of, name, value: Some(value) } = encode(&update) else { return Ok(()) };
        let mut bytes = value.to_vec();
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at.index(length)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match decode(of, &name, &bytes, &mut Pool::default()) {
            Ok(update) => prop_assert_eq!(&encode(&update).name, &name),
            Err(error) => {
                let named = format!("{of} {:?}", error.name);
                prop_assert!(error.to_string().contains(&named), "{}", error);
            }
        }
    }
}

fn policy() -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: NamespacedName::new("shop", "allow"),
        scope: PolicyScope::Namespace,
        action: Action::Allow,
        rules: Vec::new(),
    }
}

#[test]
fn a_resource_under_another_name_is_refused() {
    let encoded = encode(&Update::Authorization(policy().into()));
    let error = decode(encoded.of, "shop/other", &encoded.value.unwrap(), &mut Pool::default()).unwrap_err();
    assert!(error.to_string().contains("shop/other"), "{error}");
}

#[test]
fn a_policy_that_asks_for_more_than_is_known_is_refused() {
    let wire = mesh::AuthorizationPolicy { needs: 1, ..policy::to_wire(&policy()) };
    let error = decode(Type::AuthorizationPolicy, "shop/allow", &wire.encode_to_vec(), &mut Pool::default())
        .unwrap_err();
    assert!(error.why.contains("conditions"), "{error}");
}

#[test]
fn names_that_say_two_things_are_refused() {
    for (namespace, name) in [("shop/a", "b"), ("shop", "a/b"), ("", "a"), ("shop", "")] {
        let mut wire = policy::to_wire(&policy());
        wire.name = Some(mesh::Name { namespace: namespace.into(), name: name.into() });
        let bytes = wire.encode_to_vec();
        assert!(
            decode(Type::AuthorizationPolicy, &format!("{namespace}/{name}"), &bytes, &mut Pool::default())
                .is_err()
        );
    }
    assert!(removed(Type::Service, "no-namespace").is_err());
}

#[test]
fn an_action_that_is_not_known_denies() {
    let mut wire = policy::to_wire(&policy());
    wire.action = 77;
    match decode(Type::AuthorizationPolicy, "shop/allow", &wire.encode_to_vec(), &mut Pool::default()) {
        Ok(Update::Authorization(policy)) => assert_eq!(policy.action, Action::Unknown),
        other => panic!("{other:?}"),
    }
}
