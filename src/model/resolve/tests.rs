use std::time::Duration;

use super::*;
use crate::fixtures::*;
use crate::{EndpointPort, EndpointSlice, Membership, ServicePort, Update};

/// Two nodes in two zones that own the pods' networks.
fn nodes() -> [Update; 2] {
    [up(node("n1", "east", "10.1.0.0/16")), up(node("n2", "west", "10.2.0.0/16"))]
}

fn client() -> Workload {
    pod("shop/client", &["10.1.0.1", "fd00:1::1"])
}

/// `shop/web` at 10.96.0.1 with these pods, all in the mesh and ready.
fn web(pods: &[Workload]) -> Vec<Update> {
    let mut updates: Vec<Update> = pods.iter().cloned().map(up).collect();
    updates.push(up(service("shop/web", &["10.96.0.1"])));
    updates.push(up(slice("shop/web", pods.iter().map(endpoint).collect())));
    updates.extend(nodes());
    updates
}

fn web_pods() -> Vec<Workload> {
    let on_n2 = |pod: Workload| but(pod, |it| it.node = "n2".into());
    vec![pod("shop/web-0", &["10.1.0.10"]), on_n2(pod("shop/web-1", &["10.2.0.11"]))]
}

#[test]
fn a_call_to_a_pod_goes_to_that_pod_and_its_membership_says_how() {
    let outside = but(pod("shop/legacy", &["10.1.0.20"]), |it| it.membership = Membership::Outside);
    let snapshot = snapshot([up(pod("shop/web-0", &["10.1.0.10"])), up(outside)]);
    let into = route(&snapshot, &call(&client(), "10.1.0.10:9999"));
    assert_eq!((into.target, into.carrier), (socket("10.1.0.10:9999"), Carrier::Tunnel));
    assert_eq!(into.workload.unwrap().pod(), named("shop/web-0"));
    assert_eq!(into.service, None);
    assert_eq!(route(&snapshot, &call(&client(), "10.1.0.20:80")).carrier, Carrier::Plaintext);
    // The same address, as a dual-stack socket writes it.
    assert_eq!(
        route(&snapshot, &call(&client(), "[::ffff:10.1.0.10]:9999")).target,
        socket("10.1.0.10:9999")
    );
}

#[test]
fn a_call_to_a_service_reaches_each_of_its_ready_pods_at_their_target_port() {
    let snapshot = snapshot(web(&web_pods()));
    let calls = targets(&snapshot, &call(&client(), "10.96.0.1:80"));
    let expected = ["10.1.0.10:8080", "10.2.0.11:8080"].map(|t| (socket(t), Carrier::Tunnel));
    assert_eq!(calls, expected);
    assert_eq!(route(&snapshot, &call(&client(), "10.96.0.1:80")).service.unwrap().name, named("shop/web"));
}

#[test]
fn calls_spread_evenly() {
    let pods: Vec<_> =
        (0..10).map(|n| pod(&format!("shop/web-{n}"), &[&format!("10.1.0.{}", n + 10)])).collect();
    let snapshot = snapshot(web(&pods));
    let client = client();
    let mut counts = std::collections::HashMap::new();
    for entropy in 0..10_000 {
        let call = Call { entropy, ..call(&client, "10.96.0.1:80") };
        *counts.entry(route(&snapshot, &call).target).or_insert(0) += 1;
    }
    // 1,000 each; six standard deviations are 180.
    assert!(counts.len() == 10 && counts.values().all(|n| (820..1180).contains(n)), "{counts:?}");
}

#[test]
fn a_service_may_have_one_port_number_for_two_protocols_and_several_named_ports() {
    let mut dns = service("shop/dns", &["10.96.0.9"]);
    let udp = ServicePort { protocol: Protocol::Udp, ..service_port("dns", 53) };
    dns.ports = [service_port("dns-tcp", 53), udp, service_port("metrics", 9153)].into();
    let server = pod("shop/dns-0", &["10.1.0.53"]);
    let mut endpoints = slice("shop/dns", vec![endpoint(&server)]);
    let udp = EndpointPort { protocol: Protocol::Udp, ..endpoint_port("dns", 1053) };
    endpoints.ports = [endpoint_port("dns-tcp", 2053), udp, endpoint_port("metrics", 9153)].into();
    let snapshot = snapshot([up(dns.clone()), up(server.clone()), up(endpoints)]);

    let to = |port, protocol| {
        let destination = SocketAddr::new(ip("10.96.0.9"), port);
        snapshot.resolve(&Call { destination, protocol, ..call(&client(), "10.96.0.9:53") })
    };
    let target = |resolution| match resolution {
        Resolution::Route(route) => route.target.port(),
        other => panic!("{other:?}"),
    };
    assert_eq!(target(to(53, Protocol::Tcp)), 2053);
    assert_eq!(target(to(53, Protocol::Udp)), 1053);
    assert_eq!(target(to(9153, Protocol::Tcp)), 9153);
    let refused = to(9153, Protocol::Udp);
    assert!(matches!(&refused, Resolution::Refuse(r) if r.code() == "no-such-port"), "{refused:?}");
    assert_eq!(snapshot.target_port(&dns, &server, 53, Protocol::Udp), Some(1053));
    assert_eq!(snapshot.target_port(&dns, &client(), 53, Protocol::Udp), None);
    assert_eq!(snapshot.target_port(&dns, &server, 54, Protocol::Udp), None);
}

#[test]
fn pods_that_are_not_ready_get_no_calls_and_draining_ones_only_when_none_is_ready() {
    let pods = web_pods();
    let with = |endpoints: Vec<Endpoint>| {
        let mut updates = web(&pods);
        updates.push(up(slice("shop/web", endpoints)));
        snapshot(updates)
    };
    let (a, b) = (endpoint(&pods[0]), endpoint(&pods[1]));
    let client = client();
    let call = call(&client, "10.96.0.1:80");
    assert_eq!(addresses(&with(vec![unready(a.clone()), b.clone()]), &call), ["10.2.0.11:8080"]);
    assert_eq!(addresses(&with(vec![draining(a.clone()), b.clone()]), &call), ["10.2.0.11:8080"]);
    assert_eq!(addresses(&with(vec![draining(a.clone()), unready(b.clone())]), &call), ["10.1.0.10:8080"]);
    let refused = with(vec![unready(a), unready(b)]).resolve(&call);
    let expected = Refusal::NoEndpoint { service: named("shop/web"), port: 80 };
    assert_eq!(refused, Resolution::Refuse(expected));
}

#[test]
fn a_service_may_publish_pods_that_are_not_ready() {
    let pods = web_pods();
    let mut updates = web(&pods);
    updates.push(up(Service { publish_not_ready: true, ..service("shop/web", &["10.96.0.1"]) }));
    updates.push(up(slice("shop/web", pods.iter().map(endpoint).map(unready).collect())));
    assert_eq!(addresses(&snapshot(updates), &call(&client(), "10.96.0.1:80")).len(), 2);
}

#[test]
fn a_client_with_affinity_keeps_its_pod_while_others_come_and_go() {
    let pods: Vec<_> =
        (0..20).map(|n| pod(&format!("shop/web-{n}"), &[&format!("10.1.0.{}", n + 10)])).collect();
    let sticky = Service {
        session_affinity: Some(Duration::from_secs(10_800)),
        ..service("shop/web", &["10.96.0.1"])
    };
    let mut updates = web(&pods);
    updates.push(up(sticky));
    let mut mesh = mesh();
    mesh.apply(updates);
    let before = mesh.snapshot();

    let clients: Vec<_> = (1..=200).map(|n| pod(&format!("shop/c-{n}"), &[&format!("10.2.0.{n}")])).collect();
    let removed = socket("10.1.0.13:8080");
    mesh.apply([up(slice(
        "shop/web",
        pods.iter().filter(|p| p.addresses().first().unwrap() != removed.ip()).map(endpoint).collect(),
    ))]);
    let after = mesh.snapshot();
    let mut used = std::collections::HashSet::new();
    for client in &clients {
        let call = call(client, "10.96.0.1:80");
        let chosen = targets(&before, &call);
        assert_eq!(chosen.len(), 1, "one client, several endpoints");
        used.insert(chosen[0].0);
        if chosen[0].0 != removed {
            assert_eq!(targets(&after, &call), chosen, "an unrelated pod went, and the client was moved");
        }
        assert_ne!(targets(&after, &call)[0].0, removed);
    }
    assert!(used.len() > 15, "200 clients use only {} of 20 pods", used.len());
}

#[test]
fn internal_traffic_policy_local_stays_on_the_node_or_is_refused() {
    let mut updates = web(&web_pods());
    let local = Service {
        internal_local: true,
        vips: ["10.96.0.1", "192.0.2.1"].map(ip).into_iter().collect(),
        external_ips: [ip("192.0.2.1")].into_iter().collect(),
        ..service("shop/web", &[])
    };
    updates.push(up(local));
    let snapshot = snapshot(updates);
    let client = client();
    assert_eq!(addresses(&snapshot, &call(&client, "10.96.0.1:80")), ["10.1.0.10:8080"]);
    // The policy speaks of ClusterIPs only, as in kube-proxy.
    assert_eq!(addresses(&snapshot, &call(&client, "192.0.2.1:80")).len(), 2);
    let elsewhere = but(client, |it| it.node = "n3".into());
    let refused = snapshot.resolve(&call(&elsewhere, "10.96.0.1:80"));
    let expected = Refusal::NoLocalEndpoint { service: named("shop/web"), port: 80, node: "n3".into() };
    assert_eq!(expected.code(), "no-endpoint");
    assert_eq!(refused, Resolution::Refuse(expected));
}

#[test]
fn traffic_distribution_prefers_the_near_and_falls_back_to_the_far() {
    let mut pods = web_pods();
    pods.push(but(pod("shop/web-2", &["10.1.0.12"]), |it| it.node = "n3".into()));
    let with = |spread| {
        let mut updates = web(&pods);
        updates.push(up(Service { traffic_distribution: spread, ..service("shop/web", &["10.96.0.1"]) }));
        updates.push(up(node("n3", "east", "10.3.0.0/16")));
        snapshot(updates)
    };
    let on = |node: &str| but(client(), |it| it.node = node.into());
    let zone = with(TrafficDistribution::PreferSameZone);
    assert_eq!(addresses(&zone, &call(&on("n1"), "10.96.0.1:80")), ["10.1.0.10:8080", "10.1.0.12:8080"]);
    assert_eq!(addresses(&zone, &call(&on("n2"), "10.96.0.1:80")), ["10.2.0.11:8080"]);
    assert_eq!(addresses(&zone, &call(&on("n9"), "10.96.0.1:80")).len(), 3);
    let same_node = with(TrafficDistribution::PreferSameNode);
    assert_eq!(addresses(&same_node, &call(&on("n1"), "10.96.0.1:80")), ["10.1.0.10:8080"]);
    assert_eq!(addresses(&same_node, &call(&on("n3"), "10.96.0.1:80")), ["10.1.0.12:8080"]);
    let failed = [socket("10.1.0.12:8080")];
    let client = on("n3");
    let again = Call { exclude: &failed, ..call(&client, "10.96.0.1:80") };
    assert_eq!(addresses(&same_node, &again), ["10.1.0.10:8080"], "the same zone comes next");
}

#[test]
fn a_node_that_moves_to_another_zone_takes_its_endpoints_along() {
    let mut mesh = mesh();
    mesh.apply(web(&web_pods()));
    let spread = TrafficDistribution::PreferSameZone;
    mesh.apply([up(Service { traffic_distribution: spread, ..service("shop/web", &["10.96.0.1"]) })]);
    let client = client();
    assert_eq!(addresses(&mesh.snapshot(), &call(&client, "10.96.0.1:80")), ["10.1.0.10:8080"]);
    mesh.apply([up(node("n2", "east", "10.2.0.0/16"))]);
    assert_eq!(addresses(&mesh.snapshot(), &call(&client, "10.96.0.1:80")).len(), 2);
}

#[test]
fn endpoints_that_just_failed_are_tried_again_only_when_nothing_else_is_left() {
    let snapshot = snapshot(web(&web_pods()));
    let client = client();
    let failed = [socket("10.1.0.10:8080")];
    let again = Call { exclude: &failed, ..call(&client, "10.96.0.1:80") };
    assert_eq!(addresses(&snapshot, &again), ["10.2.0.11:8080"]);
    let all = [failed[0], socket("10.2.0.11:8080")];
    assert_eq!(addresses(&snapshot, &Call { exclude: &all, ..again }).len(), 2);
}

#[test]
fn a_pod_may_reach_itself_through_its_service() {
    let only = web_pods().remove(0);
    let snapshot = snapshot(web(std::slice::from_ref(&only)));
    assert_eq!(addresses(&snapshot, &call(&only, "10.96.0.1:80")), ["10.1.0.10:8080"]);
}

#[test]
fn each_family_has_its_own_endpoints() {
    let both = pod("shop/web-0", &["10.1.0.10", "fd00:1::10"]);
    let v6 = Endpoint { address: both.addresses().get(1).unwrap(), ..endpoint(&both) };
    let v6 = EndpointSlice { name: named("shop/web-v6"), ..slice("shop/web", vec![v6]) };
    let dual = service("shop/web", &["10.96.0.1", "fd00:96::1"]);
    let client = client();
    let whole =
        snapshot([up(both.clone()), up(dual.clone()), up(slice("shop/web", vec![endpoint(&both)])), up(v6)]);
    assert_eq!(addresses(&whole, &call(&client, "10.96.0.1:80")), ["10.1.0.10:8080"]);
    assert_eq!(addresses(&whole, &call(&client, "[fd00:96::1]:80")), ["[fd00:1::10]:8080"]);
    let only_v4 = snapshot([up(both.clone()), up(dual), up(slice("shop/web", vec![endpoint(&both)]))]);
    let refused = only_v4.resolve(&call(&client, "[fd00:96::1]:80"));
    let expected = Refusal::NoEndpointOfFamily { service: named("shop/web"), port: 80, family: Family::V6 };
    assert_eq!(expected.code(), "no-endpoint");
    assert_eq!(refused, Resolution::Refuse(expected));
}

#[test]
fn external_addresses_are_shared_by_port_and_other_ports_of_them_pass() {
    let external = |name: &str, port| {
        let mut service = service(name, &["192.0.2.1"]);
        service.external_ips = [ip("192.0.2.1")].into_iter().collect();
        service.ports = [service_port("", port)].into();
        up(service)
    };
    let server = pod("shop/b-0", &["10.1.0.10"]);
    let endpoints = up(slice("shop/b", vec![endpoint(&server)]));
    let snapshot = snapshot([external("shop/a", 80), external("shop/b", 443), up(server), endpoints]);
    let client = client();
    assert_eq!(addresses(&snapshot, &call(&client, "192.0.2.1:443")), ["10.1.0.10:8080"]);
    let ssh = snapshot.resolve(&call(&client, "192.0.2.1:22"));
    assert_eq!(ssh, Resolution::Passthrough(Passthrough::OutsideMesh));
}

#[test]
fn what_kubernetes_does_not_resolve_passes_through() {
    let db = Service { unresolved: true, ..service("shop/db", &["10.96.0.7"]) };
    let snapshot = snapshot([up(db)].into_iter().chain(nodes()));
    let client = client();
    let unresolved = snapshot.resolve(&call(&client, "10.96.0.7:5432"));
    assert_eq!(unresolved, Resolution::Passthrough(Passthrough::UnresolvedService(named("shop/db"))));
    let internet = snapshot.resolve(&call(&client, "203.0.113.5:443"));
    assert_eq!(internet, Resolution::Passthrough(Passthrough::OutsideMesh));
}

#[test]
fn endpoints_outside_the_cluster_get_plaintext() {
    let db = service("shop/db", &["10.96.0.7"]);
    let outside = up(slice("shop/db", vec![bare_endpoint("203.0.113.9")]));
    let snapshot = snapshot([up(db), outside].into_iter().chain(nodes()));
    let route = route(&snapshot, &call(&client(), "10.96.0.7:80"));
    assert_eq!((route.target, route.carrier), (socket("203.0.113.9:8080"), Carrier::Plaintext));
    assert_eq!(route.workload, None);
}

#[test]
fn a_pod_not_known_yet_is_waited_for_and_never_called_in_clear() {
    let client = client();
    let late = pod("shop/web-0", &["10.1.0.10"]);
    let empty = snapshot(nodes());
    assert_eq!(empty.resolve(&call(&client, "10.1.0.10:80")), Resolution::Unknown);
    // The slice names it, or only its address, before the pod is known.
    for endpoint in [endpoint(&late), bare_endpoint("10.1.0.10")] {
        let web = [up(service("shop/web", &["10.96.0.1"])), up(slice("shop/web", vec![endpoint]))];
        let snapshot = snapshot(web.into_iter().chain(nodes()));
        assert_eq!(snapshot.resolve(&call(&client, "10.96.0.1:80")), Resolution::Unknown);
    }
    // One that is known is called meanwhile.
    let known = pod("shop/web-1", &["10.1.0.11"]);
    let mut updates = web(std::slice::from_ref(&known));
    updates.push(up(slice("shop/web", vec![endpoint(&late), endpoint(&known)])));
    assert_eq!(addresses(&snapshot(updates), &call(&client, "10.96.0.1:80")), ["10.1.0.11:8080"]);
}

#[test]
fn a_slice_that_lags_behind_an_address_reused_leads_nowhere() {
    let gone = pod("shop/web-0", &["10.1.0.10"]);
    let mut updates = web(std::slice::from_ref(&gone));
    updates.push(Update::WorkloadGone(gone.name().clone()));
    updates.push(up(pod("other/stranger", &["10.1.0.10"])));
    assert_eq!(snapshot(updates).resolve(&call(&client(), "10.96.0.1:80")), Resolution::Unknown);
}

#[test]
fn host_network_pods_serve_in_clear_and_their_node_address_stays_the_nodes() {
    let agent = but(pod("shop/agent", &["192.0.2.10"]), |it| it.host_network = true);
    let snapshot = snapshot(web(std::slice::from_ref(&agent)));
    let client = client();
    let through = route(&snapshot, &call(&client, "10.96.0.1:80"));
    assert_eq!((through.target, through.carrier), (socket("192.0.2.10:8080"), Carrier::Plaintext));
    assert_eq!(through.workload.unwrap().pod(), named("shop/agent"));
    let node_port = snapshot.resolve(&call(&client, "192.0.2.10:30080"));
    assert_eq!(node_port, Resolution::Passthrough(Passthrough::OutsideMesh));
}

#[test]
fn the_proxys_own_ports_are_refused_also_behind_a_service() {
    let server = web_pods().remove(0);
    let mut loops = slice("shop/web", vec![endpoint(&server)]);
    loops.ports = [endpoint_port("", 15008)].into();
    let mut updates = web(std::slice::from_ref(&server));
    updates.push(up(loops));
    let snapshot = snapshot(updates);
    let client = client();
    for destination in ["10.1.0.10:15001", "10.1.0.10:15006", "10.1.0.10:15008", "10.96.0.1:80"] {
        let refused = snapshot.resolve(&call(&client, destination));
        assert!(
            matches!(&refused, Resolution::Refuse(r) if r.code() == "proxy-port"),
            "{destination}: {refused:?}"
        );
    }
}

#[test]
fn refusals_say_what_to_do() {
    let refusal = Refusal::NoSuchPort { service: named("shop/web"), port: 81, protocol: Protocol::Tcp };
    assert_eq!(refusal.to_string(), "Service shop/web has no port 81/TCP; call one that it has");
    let snapshot = snapshot(web(&web_pods()));
    assert_eq!(snapshot.resolve(&call(&client(), "10.96.0.1:81")), Resolution::Refuse(refusal));
}
