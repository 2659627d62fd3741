use super::*;
use crate::fixtures::*;
use crate::{Action, Membership, PodUid};

#[test]
fn a_reader_keeps_its_moment_while_the_mesh_moves_on() {
    let mut mesh = mesh();
    mesh.apply([up(pod("shop/a", &["10.1.0.1"]))]);
    let then = mesh.snapshot();
    mesh.apply([Update::WorkloadGone(pod("shop/a", &[]).name().clone()), up(pod("shop/b", &["10.1.0.1"]))]);
    let now = mesh.snapshot();
    assert_eq!(then.workload_by_ip(ip("10.1.0.1")).unwrap().pod(), named("shop/a"));
    assert_eq!(now.workload_by_ip(ip("10.1.0.1")).unwrap().pod(), named("shop/b"));
    assert!(now.version() > then.version());
}

#[test]
fn a_batch_without_effect_changes_nothing() {
    let mut mesh = mesh();
    mesh.apply([up(pod("shop/a", &["10.1.0.1"]))]);
    let before = mesh.snapshot();
    let change = mesh.apply([
        up(pod("shop/a", &["10.1.0.1"])),
        up(service("shop/brief", &["10.96.0.1"])),
        Update::ServiceGone(named("shop/brief")),
        Update::NodeGone("nowhere".into()),
    ]);
    assert!(change.workloads.is_empty() && !change.services && !change.policies);
    assert!(Arc::ptr_eq(&before, &mesh.snapshot()));
}

#[test]
fn a_change_tells_the_net_effect() {
    let mut mesh = mesh();
    mesh.apply([up(pod("shop/a", &["10.1.0.1"])), up(pod("shop/b", &["10.1.0.2"]))]);
    let relabelled = but(pod("shop/a", &["10.1.0.1"]), |it| it.labels = pod_labels(&[("app", "a")]));
    let change = mesh.apply([
        Update::WorkloadGone(relabelled.name().clone()),
        up(relabelled),
        Update::WorkloadGone(pod("shop/b", &[]).name().clone()),
        up(pod("shop/c", &["10.1.0.2"])),
    ]);
    let pods = |w: &Option<Arc<Workload>>| w.as_ref().map(|w| (w.pod().name.to_string(), w.labels().len()));
    let told: Vec<_> = change.workloads.iter().map(|c| (pods(&c.before), pods(&c.after))).collect();
    let some = |name: &str, labels| Some((name.to_owned(), labels));
    assert_eq!(told, [(some("a", 0), some("a", 1)), (some("b", 0), None), (None, some("c", 0))]);
    assert!(!change.policies && !change.services);
}

#[test]
fn policies_change_with_policy_objects_and_with_services_they_are_attached_to() {
    let mut mesh = mesh();
    let served = but(pod("shop/a", &["10.1.0.1"]), |it| it.labels = pod_labels(&[("app", "a")]));
    let ready = slice("shop/a", vec![endpoint(&served)]);
    let change = mesh.apply([up(service("shop/a", &[])), up(ready.clone()), up(served.clone())]);
    assert!(change.services && !change.policies, "no policy is attached yet");

    let scope = PolicyScope::Services(vec![named("shop/a"), named("shop/later")]);
    let attached = AuthorizationPolicy { scope, ..policy("shop/p", Action::Deny, vec![]) };
    assert!(mesh.apply([up(attached.clone())]).policies);
    assert!(!mesh.apply([up(attached)]).policies, "the same again");
    assert!(mesh.apply([up(slice("shop/a", vec![]))]).policies, "an endpoint went");
    assert!(mesh.apply([up(service("shop/later", &[]))]).policies, "the Service came after the policy");
    assert!(!mesh.apply([up(service("shop/other", &[]))]).policies);
    let moved = EndpointSlice { service: named("shop/other"), ..ready };
    assert!(mesh.apply([up(moved.clone())]).policies, "a slice left the Service");
    assert!(!mesh.apply([Update::EndpointSliceGone(moved.name)]).policies);
    assert!(mesh.apply([Update::AuthorizationGone(named("shop/p"))]).policies);
    assert!(!mesh.apply([Update::ServiceGone(named("shop/a"))]).policies, "no longer attached");
    assert!(mesh.apply([up(mtls("shop/m", PolicyScope::Namespace, None))]).policies);
    let node = mesh.apply([up(node("n1", "east", "10.1.0.0/16"))]);
    assert!(node.services && !node.policies);
}

#[test]
fn of_two_pods_with_one_address_the_same_one_always_wins_and_both_are_reported() {
    let staying = pod("shop/staying", &["10.1.0.1"]);
    let proven = but(pod("shop/proven", &["10.1.0.1"]), |it| it.uid = PodUid::new("a"));
    let outside = but(pod("shop/out", &["10.1.0.1"]), |it| {
        it.membership = Membership::Outside;
        it.uid = PodUid::new("z")
    });
    let leaving = but(pod("shop/leaving", &["10.1.0.1"]), |it| {
        it.terminating = true;
        it.uid = PodUid::new("zz")
    });
    let all = [leaving, outside, proven, staying];
    for turn in 0..all.len() {
        let mut order = all.clone();
        order.rotate_left(turn);
        let mut mesh = mesh();
        mesh.apply(order.iter().cloned().map(up));
        let (address, names) = mesh.snapshot().duplicate_addresses().next().unwrap();
        assert_eq!(address, ip("10.1.0.1"));
        let expected: Vec<_> = all.iter().rev().map(|w| w.name().clone()).collect();
        assert_eq!(names, expected);
        for (winner, next) in expected.iter().zip(&expected[1..]) {
            assert_eq!(mesh.snapshot().workload_by_ip(address).unwrap().name(), winner);
            mesh.apply([Update::WorkloadGone(winner.clone())]);
            assert_eq!(mesh.snapshot().workload_by_ip(address).unwrap().name(), next);
        }
        assert_eq!(mesh.snapshot().duplicate_addresses().count(), 0);
    }
}

#[test]
fn finished_and_host_network_pods_have_no_address() {
    let finished = but(pod("shop/job", &["10.1.0.1"]), |it| it.finished = true);
    let agent = but(pod("shop/agent", &["192.0.2.1"]), |it| it.host_network = true);
    let snapshot = snapshot([up(finished.clone()), up(agent)]);
    assert_eq!(snapshot.workload_by_ip(ip("10.1.0.1")), None);
    assert_eq!(snapshot.workload_by_ip(ip("192.0.2.1")), None);
    assert_eq!(snapshot.workload_by_uid(finished.uid()).unwrap().pod(), named("shop/job"));
    assert_eq!(snapshot.workload(finished.name()).unwrap().pod(), named("shop/job"));
}

#[test]
fn the_meshs_networks_are_those_of_its_nodes_unless_they_are_given() {
    let mut mesh = mesh();
    let (a, b) = (node("n1", "", "10.1.0.0/24"), node("n2", "", "10.1.0.0/24"));
    assert!(!mesh.snapshot().in_mesh_networks(ip("10.1.0.7")));
    mesh.apply([up(a), up(b), up(node("n3", "", "fd00:3::/64"))]);
    assert!(mesh.snapshot().in_mesh_networks(ip("10.1.0.7")));
    assert!(mesh.snapshot().in_mesh_networks(ip("::ffff:10.1.0.7")));
    assert!(mesh.snapshot().in_mesh_networks(ip("fd00:3::7")));
    assert!(!mesh.snapshot().in_mesh_networks(ip("10.1.1.7")));
    mesh.apply([Update::NodeGone("n1".into())]);
    assert!(mesh.snapshot().in_mesh_networks(ip("10.1.0.7")), "n2 still has it");
    mesh.apply([Update::NodeGone("n2".into())]);
    assert!(!mesh.snapshot().in_mesh_networks(ip("10.1.0.7")));

    let given = |networks: Vec<IpNet>| {
        Mesh::new(MeshConfig { root_namespace: ROOT.into(), networks: Some(networks) })
    };
    let mut some = given(vec!["10.0.0.0/8".parse().unwrap()]);
    some.apply([up(node("n1", "", "172.16.0.0/24"))]);
    assert!(some.snapshot().in_mesh_networks(ip("10.200.0.1")));
    assert!(!some.snapshot().in_mesh_networks(ip("172.16.0.1")));
    let mut none = given(vec![]);
    none.apply([up(node("n1", "", "172.16.0.0/24"))]);
    assert!(!none.snapshot().in_mesh_networks(ip("172.16.0.1")));
}

#[test]
fn a_service_is_found_by_each_of_its_names() {
    let mut mesh = mesh();
    mesh.apply([up(service("shop/web", &["10.96.0.1", "fd00:96::1"]))]);
    let snapshot = mesh.snapshot();
    for vip in ["10.96.0.1", "fd00:96::1", "::ffff:10.96.0.1"] {
        assert_eq!(snapshot.service_by_vip(ip(vip)).unwrap().name, named("shop/web"));
    }
    assert_eq!(snapshot.service_by_hostname("web.shop.svc.cluster.local").unwrap().name, named("shop/web"));
    mesh.apply([up(service("shop/web", &["10.96.0.2"]))]);
    assert_eq!(mesh.snapshot().service_by_vip(ip("10.96.0.1")), None);
    assert_eq!(mesh.snapshot().service_by_vip(ip("10.96.0.2")).unwrap().name, named("shop/web"));
}

#[test]
fn slices_may_come_before_their_service_and_pass_to_another() {
    let mut mesh = mesh();
    let server = pod("shop/a-0", &["10.1.0.10"]);
    let endpoints = slice("shop/a", vec![endpoint(&server)]);
    mesh.apply([up(endpoints.clone()), up(server.clone())]);
    mesh.apply([up(service("shop/a", &["10.96.0.1"])), up(service("shop/b", &["10.96.0.2"]))]);
    let serving = |mesh: &Mesh| {
        ["shop/a", "shop/b"]
            .map(|s| mesh.snapshot().serves(&server, mesh.snapshot().service(&named(s)).unwrap()))
    };
    assert_eq!(serving(&mesh), [true, false]);
    mesh.apply([up(EndpointSlice { service: named("shop/b"), ..endpoints })]);
    assert_eq!(serving(&mesh), [false, true]);
    let client = pod("shop/client", &["10.1.0.1"]);
    assert_eq!(addresses(&mesh.snapshot(), &call(&client, "10.96.0.2:80")), ["10.1.0.10:8080"]);
}
