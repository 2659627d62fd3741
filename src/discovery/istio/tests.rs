//! Random meshes: what a ztunnel is told after any history is what it would be told at once, and by it a ztunnel decides as the model does.

mod enforce;
mod worlds;

use std::collections::{BTreeMap, BTreeSet};

use aquifer_model::{
    Access, Call, Carrier, Endpoint, Identity, Protocol, Resolution, TrustDomain, Update, Workload,
};
use proptest::prelude::*;

use super::*;
use crate::proto::{security, workload as wire};
use crate::testing;
use enforce::{Caller, allows};
use worlds::{ADDRESSES, CALLED_PORTS, NAMES, NAMESPACES, ROOT};

/// What a client has that was told everything.
#[derive(Default, Debug, PartialEq)]
struct Told {
    policies: BTreeMap<String, security::Authorization>,
    workloads: BTreeMap<String, wire::Workload>,
    services: BTreeMap<String, wire::Service>,
}

impl Told {
    fn take(&mut self, resources: Vec<Resource>) {
        for Resource { of, name, value } in resources {
            let name = name.to_string();
            let Some(value) = value else {
                match of {
                    IstioType::Authorization => _ = self.policies.remove(&name),
                    IstioType::Address => {
                        self.workloads.remove(&name);
                        self.services.remove(&name);
                    }
                }
                continue;
            };
            match of {
                IstioType::Authorization => {
                    self.policies.insert(name, security::Authorization::decode(value).unwrap());
                }
                IstioType::Address => match wire::Address::decode(value).unwrap().r#type.unwrap() {
                    wire::address::Type::Workload(workload) => {
                        assert_eq!(workload.uid, name);
                        self.workloads.insert(name, workload);
                    }
                    wire::address::Type::Service(service) => {
                        assert_eq!(format!("{}/{}", service.namespace, service.hostname), name);
                        self.services.insert(name, service);
                    }
                },
            }
        }
    }

    fn of(mesh: &Arc<Snapshot>) -> Self {
        let mut told = Self::default();
        told.take(View::new(mesh.clone()).1);
        told
    }
}

fn mesh() -> Mesh {
    // As a controller's: it takes no network for its own.
    Mesh::new(MeshConfig { root_namespace: ROOT.into(), networks: Some(Vec::new()) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn after_any_history_it_is_told_what_is(history in worlds::history()) {
        let mut mesh = mesh();
        let (mut view, resources) = View::new(mesh.snapshot());
        let mut told = Told::default();
        told.take(resources);
        for updates in history {
            mesh.apply(updates.clone());
            told.take(view.apply(&updates, mesh.snapshot()));
            prop_assert_eq!(&told, &Told::of(&mesh.snapshot()));
        }
    }

    #[test]
    fn a_ztunnel_lets_through_what_the_model_does(history in worlds::history()) {
        let mut mesh = mesh();
        history.into_iter().for_each(|updates| _ = mesh.apply(updates));
        let mesh = mesh.snapshot();
        let told = Told::of(&mesh);
        for (name, workload) in &told.workloads {
            for policy in &workload.authorization_policies {
                prop_assert!(told.policies.contains_key(policy), "{policy} is not there, and counts for nothing");
            }
            let Some(destination) = mesh.workload(&WorkloadName::from_wire(name)) else { continue };
            let callers = NAMESPACES.iter().flat_map(|ns| NAMES.iter().map(move |account| Some((ns, account)))).chain([None]);
            for (caller, source, port) in callers.flat_map(|c| ADDRESSES.iter().flat_map(move |s| CALLED_PORTS.iter().map(move |p| (c, *s, *p)))) {
                let identity = caller.map(|(ns, account)| Identity::new(TrustDomain::default(), *ns, *account));
                let source: IpAddr = source.parse().unwrap();
                let address = (destination.addresses().first().unwrap(), port).into();
                let access = Access { identity: identity.as_ref(), source, destination, address };
                let model = mesh.authorize(&access).is_ok();
                let caller = Caller { identity: identity.as_ref(), source: source.to_canonical(), destination: address };
                prop_assert_eq!(allows(&told.policies, workload, &caller), model, "{:?} {:#?}", access, told);
            }
        }
    }

    #[test]
    fn a_ztunnel_goes_where_the_model_goes(history in worlds::history(), entropy: u64) {
        // As a node's, which knows what is among the pods of others.
        let mut mesh = Mesh::new(MeshConfig { root_namespace: ROOT.into(), networks: None });
        history.into_iter().for_each(|updates| _ = mesh.apply(updates));
        let mesh = mesh.snapshot();
        let told = Told::of(&mesh);
        for service in mesh.services().filter(|service| !service.unresolved) {
            let key = address::service_name(service);
            let wire = &told.services[&key];
            for vip in service.vips.iter().filter(|vip| mesh.service_by_vip(*vip).is_some_and(|s| s.name == service.name)) {
                prop_assert!(wire.addresses.iter().any(|a| a.address == crate::convert::address(vip.to_canonical())));
                for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
                    let caller = worlds::caller();
                    let destination = (vip, port.port).into();
                    let call = Call { caller: &caller, destination, protocol: Protocol::Tcp, entropy, exclude: &[] };
                    let choices = enforce::endpoints(&told.workloads, wire, &key, port.port);
                    let Resolution::Route(route) = mesh.resolve(&call) else { continue };
                    // Those that drain have no word on the wire: a ztunnel does not fall back to them.
                    let who = route.workload.as_deref().map(Workload::name);
                    let ready = |e: &Endpoint| {
                        e.address.to_canonical() == route.target.ip()
                            && (e.workload.is_none() || e.workload.as_ref() == who)
                            && (e.ready || service.publish_not_ready)
                    };
                    let slices = || mesh.endpoint_slices().filter(|slice| slice.service == service.name);
                    if !slices().any(|slice| slice.endpoints.iter().any(ready)) { continue }
                    // A ztunnel has the addresses of the pod alone, which a slice may be older than.
                    let owns = |w: &Workload| w.addresses().iter().any(|ip| ip.to_canonical() == route.target.ip());
                    if route.workload.as_deref().is_some_and(|workload| !owns(workload)) { continue }
                    let hbone = route.carrier == Carrier::Tunnel;
                    let at = (route.target.ip().to_canonical(), route.target.port());
                    let means = |e: &Endpoint| match (&e.workload, route.workload.as_deref()) {
                        (None, Some(w)) => w.addresses().iter().any(|ip| ip.to_canonical() == e.address.to_canonical()),
                        (None, None) => e.address.to_canonical() == route.target.ip(),
                        (name, _) => name.as_ref() == who,
                    };
                    let places = slices().filter(|slice| slice.endpoints.iter().any(means)).count();
                    // Of one that is ready at two ports for one of the Service, a ztunnel knows one.
                    let meant = |choice: &(IpAddr, u16, bool)| choice.0 == at.0 && choice.2 == hbone && (choice.1 == at.1 || places > 1);
                    prop_assert!(choices.iter().any(meant), "{:?} is not among {:?}: {:#?}", route, choices, told);
                }
            }
        }
    }

    #[test]
    fn any_name_may_be_asked_for(history in worlds::history(), name: String, part in "[a-z0-9./:]{0,12}") {
        let mut mesh = mesh();
        history.into_iter().for_each(|updates| _ = mesh.apply(updates));
        let (view, _) = View::new(mesh.snapshot());
        for name in [&name, &part, &format!("/{part}"), &format!("a/{part}"), &address::bare_name([10, 1, 0, 1].into())] {
            for of in IstioType::ALL {
                view.find(of, name);
                view.aliases(of, name);
                view.serves(of, name);
            }
        }
    }

    #[test]
    fn names_find_what_they_mean(history in worlds::history()) {
        let mut mesh = mesh();
        history.into_iter().for_each(|updates| _ = mesh.apply(updates));
        let mesh = mesh.snapshot();
        let (view, resources) = View::new(mesh.clone());
        let mut told = Told::default();
        told.take(resources);
        for (name, workload) in &told.workloads {
            let found = view.find(IstioType::Address, name);
            prop_assert_eq!(found.iter().map(|name| name.to_string()).collect::<Vec<_>>(), vec![name.clone()]);
            let aliases: BTreeSet<String> = view.aliases(IstioType::Address, name).into_iter().collect();
            for alias in &aliases {
                prop_assert_eq!(view.find(IstioType::Address, alias), found.clone());
            }
            let is_own = workload.network_mode == i32::from(wire::NetworkMode::Standard);
            prop_assert_eq!(aliases.len(), if is_own { workload.addresses.len() } else { 0 });
            prop_assert_eq!(view.serves(IstioType::Address, name), workload.services.keys().cloned().collect::<Vec<_>>());
            for service in workload.services.keys() {
                prop_assert!(view.find(IstioType::Address, service).contains(&found[0]));
            }
        }
        for name in told.services.keys() {
            prop_assert_eq!(view.find(IstioType::Address, name)[0].to_string(), name.clone());
        }
    }
}

/// How many resources a batch says something about.
fn said(view: &mut View, mesh: &mut Mesh, updates: Vec<Update>) -> Vec<String> {
    mesh.apply(updates.clone());
    let mut names: Vec<String> =
        view.apply(&updates, mesh.snapshot()).into_iter().map(|resource| resource.name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn one_change_among_many_is_looked_at_alone() {
    let mut mesh = mesh();
    let pods: Vec<Workload> = (0..1_000).map(|n| worlds::pod_at("a", &format!("p{n}"), n)).collect();
    let service = testing::service("a", "web");
    let slices = pods.chunks(100).enumerate().map(|(n, pods)| worlds::slice_of(&service, n, pods));
    let mut updates: Vec<Update> = slices.map(|slice| Update::EndpointSlice(slice.into())).collect();
    updates.push(Update::Service(service.clone().into()));
    updates.extend(pods.iter().cloned().map(|pod| Update::Workload(pod.into())));
    mesh.apply(updates);
    let (mut view, resources) = View::new(mesh.snapshot());
    assert_eq!(resources.len(), 1_001);

    let mut facts = pods[7].facts();
    facts.labels = vec![("app".into(), "x".into())];
    let changed = said(&mut view, &mut mesh, vec![Update::Workload(Arc::new(facts.into()))]);
    assert_eq!(changed, ["Kubernetes//Pod/a/p7"]);

    let mut slice = worlds::slice_of(&service, 3, &pods[300..400]);
    slice.endpoints[5].ready = false;
    let changed = said(&mut view, &mut mesh, vec![Update::EndpointSlice(slice.into())]);
    assert_eq!(changed, ["Kubernetes//Pod/a/p305"]);

    let policy = worlds::selecting("a", "p", &[("app", "x")]);
    let changed = said(&mut view, &mut mesh, vec![Update::Authorization(policy.into())]);
    assert_eq!(changed, ["Kubernetes//Pod/a/p7", "a/p_selected"]);

    let policy = worlds::selecting_all("a", "q");
    let changed = said(&mut view, &mut mesh, vec![Update::Authorization(policy.into())]);
    assert_eq!(changed, ["a/q"]);
}

#[test]
fn pods_that_demand_the_same_share_a_policy() {
    let mut mesh = mesh();
    let pods: Vec<Update> =
        (0..3).map(|n| Update::Workload(worlds::pod_at("a", &format!("p{n}"), n).into())).collect();
    mesh.apply(pods);
    let (mut view, _) = View::new(mesh.snapshot());
    let strict = worlds::strict("a", "all", &[], &[]);
    let changed = said(&mut view, &mut mesh, vec![Update::PeerAuthentication(strict.into())]);
    let pods = ["Kubernetes//Pod/a/p0", "Kubernetes//Pod/a/p1", "Kubernetes//Pod/a/p2"];
    assert_eq!(changed, [&pods[..], &["aquifer-system/strict_mtls"]].concat());

    let but = worlds::strict("a", "but", &[("app", "p1")], &[8080]);
    let changed = said(&mut view, &mut mesh, vec![Update::PeerAuthentication(but.into())]);
    assert_eq!(changed, [pods[1], "aquifer-system/strict_mtls", "aquifer-system/strict_mtls_except_8080"]);
    let told = Told::of(&mesh.snapshot());
    let of = |pod: &str| &told.workloads[pod].authorization_policies;
    assert_eq!(of(pods[0]), &["aquifer-system/strict_mtls"]);
    assert_eq!(of(pods[1]), &["aquifer-system/strict_mtls_except_8080"]);
    let gone = Update::PeerAuthenticationGone(NamespacedName::new("a", "all"));
    said(&mut view, &mut mesh, vec![gone]);
    assert_eq!(
        Told::of(&mesh.snapshot()).policies.keys().collect::<Vec<_>>(),
        ["aquifer-system/strict_mtls_except_8080"]
    );
}

#[test]
fn wildcards_where_istio_has_none_allow_less_and_deny_more() {
    use aquifer_model::{Action, Clause, Match, Rule, StringMatch};
    let caller = Identity::new(TrustDomain::default(), "a", "x");
    let text = StringMatch::parse;
    let verdict = |action, of: Match| {
        let rule = Rule { clauses: vec![Clause(vec![of])], l7: false };
        let policy = AuthorizationPolicy {
            name: NamespacedName::new("a", "p"),
            scope: PolicyScope::Namespace,
            action,
            rules: vec![rule],
        };
        let policies = BTreeMap::from([("a/p".to_owned(), authorization::to_wire(&policy))]);
        let workload = wire::Workload { namespace: "a".to_owned(), ..wire::Workload::default() };
        let (source, destination) = ("10.1.0.1".parse().unwrap(), "10.1.0.2:80".parse().unwrap());
        allows(&policies, &workload, &Caller { identity: Some(&caller), source, destination })
    };
    let any = |texts: &[&str]| Match {
        service_accounts: texts.iter().map(|t| text(t)).collect(),
        ..Match::default()
    };
    let none = |texts: &[&str]| Match {
        not_service_accounts: texts.iter().map(|t| text(t)).collect(),
        ..Match::default()
    };
    assert!(verdict(Action::Allow, any(&["a/x"])) && verdict(Action::Allow, any(&["b/*", "a/x"])));
    assert!(!verdict(Action::Allow, any(&["a/*"])), "it could not be said who");
    assert!(!verdict(Action::Allow, none(&["b/*"])) && verdict(Action::Allow, none(&["b/x"])));
    assert!(!verdict(Action::Deny, any(&["b/*"])) && !verdict(Action::Unknown, any(&["b/*"])));
    assert!(!verdict(Action::Deny, none(&["a/*"])) && verdict(Action::Deny, none(&["a/x"])));
}

/// A list of bytes.
fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// As `protoc --encode` writes the same by Istio's own definitions (istio/ztunnel 62d8265).
const AUTHORIZATION: &str = "0a03776562120473686f70180220012a640a6212600a030a016112031201621a02220022071a052f73612f782a080a040a010000101832080a040a01000110203a080a040a010002102042080a040a01000310204a015052015a5a0b0a0473686f701203706179620c0a0473686f70120469646c65";
const WORKLOAD: &str = "0ac0010a06636172742d30120473686f701a040a0100012801320d636c75737465722e6c6f63616c3a04636172744a026e315204636172745a02763160016a08636172742d6a6f6282011173686f702f7765625f73656c656374656488010192010a4b756265726e65746573a2011b4b756265726e657465732f2f506f642f73686f702f636172742d30b2012a0a1f73686f702f7765622e73686f702e7376632e636c75737465722e6c6f63616c12070a05085010903fc201060a017212017ac80101";
const SERVICE: &str = "12420a03776562120473686f701a1a7765622e73686f702e7376632e636c75737465722e6c6f63616c220612040a6000012a040850180342090a03060102100218015801";

#[test]
fn it_is_written_by_istios_definitions() {
    use aquifer_model::{Action, Clause, Match, Node, Rule, StringMatch, TrafficDistribution};
    let text = StringMatch::parse;
    let net = |text: &str| vec![text.parse().unwrap()];
    let all = Match {
        namespaces: vec![text("a")],
        not_namespaces: vec![text("b*")],
        principals: vec![text("*")],
        not_principals: vec![text("*/sa/x")],
        source_ips: net("10.1.0.0/24"),
        not_source_ips: net("10.1.0.1/32"),
        destination_ips: net("10.1.0.2/32"),
        not_destination_ips: net("10.1.0.3/32"),
        destination_ports: vec![80],
        not_destination_ports: vec![90],
        service_accounts: vec![text("shop/pay")],
        not_service_accounts: vec![text("shop/idle")],
    };
    let policy = AuthorizationPolicy {
        rules: vec![Rule { clauses: vec![Clause(vec![all])], l7: false }],
        action: Action::Deny,
        ..worlds::selecting("shop", "web", &[("app", "cart-0")])
    };
    let mut facts = worlds::pod_at("shop", "cart-0", 1).facts();
    facts.service_account = "cart".into();
    facts.canonical_name = Some("cart".into());
    facts.canonical_revision = "v1".into();
    facts.owner = Some(("cronjob".into(), "cart-job".into()));
    let cart = Workload::from(facts);
    let mut service = testing::service("shop", "web");
    service.ports[0].app_protocol = "grpc".into();
    service.vips = [[10, 96, 0, 1].into()].into_iter().collect();
    service.traffic_distribution = TrafficDistribution::PreferSameZone;
    let mut slice = worlds::slice_of(&service, 0, std::slice::from_ref(&cart));
    slice.endpoints[0].ready = false;
    let node = Node { name: "n1".into(), region: "r".into(), zone: "z".into(), pod_cidrs: vec![] };
    let updates = vec![
        Update::Authorization(policy.into()),
        Update::Workload(cart.into()),
        Update::EndpointSlice(slice.into()),
        Update::Node(node.into()),
        Update::Service(Service { publish_not_ready: true, ..service }.into()),
    ];
    let mut mesh = mesh();
    mesh.apply(updates);
    let (_, resources) = View::new(mesh.snapshot());
    let value = |name: &str| resources.iter().find(|r| *r.name == *name).unwrap().value.clone().unwrap();
    assert_eq!(value("shop/web_selected"), bytes(AUTHORIZATION));
    assert_eq!(value("shop/web.shop.svc.cluster.local"), bytes(SERVICE));
    // It is a host-network pod there; a tunnel leads to none here.
    let mut told = wire::Address::decode(value("Kubernetes//Pod/shop/cart-0")).unwrap();
    if let Some(wire::address::Type::Workload(workload)) = &mut told.r#type {
        workload.set_network_mode(wire::NetworkMode::HostNetwork);
    }
    assert_eq!(told.encode_to_vec(), bytes(WORKLOAD));
}
