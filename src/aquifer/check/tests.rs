//! Planted faults: a healthy cluster as facts, one thing made wrong, and what check says of it.

use aquifer_source::{Key, Kind, Standing, Taken, Written};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::facts::{Fact, Fault, Listener, Member, Pages};
use super::*;
use crate::certificates::{Leaf, Root};
use crate::cluster::Live;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

const SHOP: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {aquifer.dev/mesh: ambient}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: legacy}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.1.0.0/24}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, spec: {podCIDR: 10.2.0.0/24}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, uid: u-client, labels: {app: client}}
spec: {nodeName: n1, serviceAccountName: client}
status: {podIP: 10.1.0.2, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u-web, labels: {app: web}}
spec:
  nodeName: n2
  serviceAccountName: web
  containers: [{name: app, image: none, ports: [{name: http, containerPort: 8080}]}]
status: {podIP: 10.2.0.2, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: legacy, uid: u-old, labels: {app: old}}
spec: {nodeName: n2}
status: {podIP: 10.2.0.9, phase: Running}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http, appProtocol: http}]}
---
apiVersion: aquifer.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}
"#;

fn live(more: &str) -> Live {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop.yaml"), SHOP).unwrap();
    std::fs::write(folder.path().join("zmore.yaml"), more).unwrap();
    let config = aquifer_source::TranslateConfig::default();
    let (objects, problems) = aquifer_source::folder::load(folder.path(), &config).unwrap();
    assert!(
        problems.iter().all(|problem| problem.severity < aquifer_source::Severity::Error),
        "{problems:?}"
    );
    Live::of(objects, problems, config, None)
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn member(name: &str, node: &str, pages: Pages) -> Member {
    let image = format!("ghcr.io/aquifer-mesh/aquifer:{}", env!("CARGO_PKG_VERSION"));
    let pod = of(json!({
        "metadata": { "name": name },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": image }] },
        "status": {
            "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{ "name": "c", "image": image, "imageID": "sha256:1", "ready": true, "restartCount": 0 }],
        },
    }));
    let root = Root { id: "r1".into(), subject: "CN=root".into(), not_after: NOW + 3650 * DAY };
    let mut pages = Pages { ahead: Some(SignedDuration::ZERO), ..pages };
    pages.certificates.roots.push(root);
    Member { pod, pages: Ok(pages) }
}

/// A proxy with one pod in the mesh.
fn proxy(node: &str, uid: &str) -> Member {
    let mut pages = Pages {
        enrolments: vec![of(json!({ "uid": uid, "ready": true, "why": "enrolled" }))],
        ..Pages::default()
    };
    pages.certificates.certificates.push(Leaf {
        identity: format!("spiffe://cluster.local/ns/shop/sa/{uid}"),
        serial: "1".into(),
        not_before: NOW,
        not_after: NOW + DAY,
        renew_at: NOW + DAY / 2,
        issuer: "CN=issuer".into(),
        last_error: None,
    });
    member(&format!("aquifer-node-{node}"), node, pages)
}

fn healthy(more: &str) -> Facts {
    let mut told = Pages::default();
    told.discovery.leads = Some(true);
    told.discovery.listeners = ["n1", "n2"]
        .map(|node| Listener { id: format!("ztunnel~~{node}.aquifer-system~"), behind: 0 })
        .into();
    Facts {
        now: jiff::Timestamp::from_second(NOW).unwrap(),
        nodes: Ok(["n1", "n2"].map(|name| of(json!({ "metadata": { "name": name } }))).into()),
        deployment: Ok(Some(of(
            json!({ "metadata": {}, "spec": { "replicas": 1, "selector": {}, "template": {} }, "status": { "readyReplicas": 1 } }),
        ))),
        controllers: Ok(vec![member("aquifer-controller-x", "n1", told)]),
        proxies: Ok(vec![proxy("n1", "u-client"), proxy("n2", "u-web")]),
        mesh: Ok(live(more)),
        network_policies: Ok(Vec::new()),
    }
}

fn pages(members: &mut Fact<Vec<Member>>, index: usize) -> &mut Pages {
    members.as_mut().unwrap()[index].pages.as_mut().unwrap()
}

/// The only thing that is wrong, by its check; with a mend and somebody whose it is.
fn wrong(facts: &Facts, check: &str, level: Level) -> Finding {
    let all = judge(facts, None);
    let wrong: Vec<&Finding> = all.iter().filter(|finding| finding.level > Level::Good).collect();
    let [finding] = wrong[..] else { panic!("not one fault was found but {wrong:#?}") };
    assert_eq!((finding.check, finding.level), (check, level), "{finding:#?}");
    assert!(finding.whose.is_some(), "{finding:#?}");
    finding.clone()
}

fn mend(finding: &Finding) -> &str {
    finding.mend.as_deref().unwrap()
}

#[test]
fn a_healthy_mesh_has_no_fault() {
    let all = judge(&healthy(""), None);
    assert!(all.iter().all(|finding| finding.level == Level::Good), "{all:#?}");
    let checks: Vec<&str> = all.iter().map(|finding| finding.check).collect();
    let expected = [
        "controller",
        "discovery",
        "leader",
        "objects",
        "node-proxies",
        "admin-pages",
        "versions",
        "clocks",
        "rules",
        "enrolment",
        "root-expiry",
        "certificates",
        "service-ports",
        "policies",
    ];
    assert_eq!(checks, expected);
}

#[test]
fn planted_a_missing_rule_in_one_pod() {
    let mut facts = healthy("");
    let fault = Fault {
        code: "rules".into(),
        about: "shop/web".into(),
        found: "the packet rules are gone".into(),
        mend: "find out who".into(),
    };
    pages(&mut facts.proxies, 1).faults.push(fault);
    let finding = wrong(&facts, "rules", Level::Error);
    assert!(finding.found.contains("shop/web on n2: the packet rules are gone"), "{finding:?}");
    assert_eq!(mend(&finding), "find out who");
    // It was repaired before anybody looked: that is told, too.
    let mut facts = healthy("");
    pages(&mut facts.proxies, 1).repairs = 3;
    let finding = wrong(&facts, "rules", Level::Warning);
    assert!(finding.found.contains("n2 (3 times)"), "{finding:?}");
}

#[test]
fn planted_an_expired_root() {
    let mut facts = healthy("");
    for index in 0..2 {
        pages(&mut facts.proxies, index).certificates.roots[0].not_after = NOW - 1;
    }
    pages(&mut facts.controllers, 0).certificates.roots[0].not_after = NOW - 1;
    let finding = wrong(&facts, "root-expiry", Level::Error);
    assert!(
        finding.found.contains("has ended")
            && mend(&finding).contains("kubectl -n aquifer-system edit secret aquifer-ca"),
        "{finding:?}"
    );
    let soon = |days: i64, within: Option<u64>| {
        let mut facts = healthy("");
        pages(&mut facts.proxies, 0).certificates.roots[0].not_after = NOW + days * DAY;
        let within = within.map(|days| Duration::from_secs(days * 24 * 3600));
        judge(&facts, within).into_iter().find(|finding| finding.check == "root-expiry").unwrap().level
    };
    assert_eq!(
        [soon(100, None), soon(29, None), soon(100, Some(101))],
        [Level::Good, Level::Warning, Level::Error]
    );
}

#[test]
fn planted_a_wrong_clock() {
    let mut facts = healthy("");
    pages(&mut facts.proxies, 1).ahead = Some(SignedDuration::from_secs(-3600));
    let finding = wrong(&facts, "clocks", Level::Error);
    assert!(
        finding.found.contains("n2 is 3600 s behind") && mend(&finding).contains("chronyc makestep"),
        "{finding:?}"
    );
    pages(&mut facts.proxies, 1).ahead = Some(SignedDuration::from_secs(30));
    assert!(wrong(&facts, "clocks", Level::Warning).found.contains("n2 is 30 s ahead"));
}

#[test]
fn planted_15008_blocked_by_a_network_policy() {
    let policy = |ports: Value| {
        of(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"], "ingress": [{ "ports": ports }] },
        }))
    };
    let mut facts = healthy("");
    facts.network_policies = Ok(vec![policy(json!([{ "port": 8080 }]))]);
    let finding = wrong(&facts, "network-policies", Level::Warning);
    assert!(
        finding.found.contains("NetworkPolicy shop/web") && finding.found.contains("15008"),
        "{finding:?}"
    );
    assert!(
        mend(&finding).starts_with("kubectl -n shop patch networkpolicy web")
            && mend(&finding).contains("/spec/ingress/0/ports/-")
    );
    for open in [
        json!([{ "port": 8080 }, { "port": 15008, "protocol": "TCP" }]),
        json!([{ "port": 15000, "endPort": 15010 }]),
        json!([]),
    ] {
        facts.network_policies = Ok(vec![policy(open)]);
        assert!(judge(&facts, None).iter().all(|finding| finding.level == Level::Good));
    }
}

#[test]
fn planted_the_cni_file_overwritten() {
    let mut facts = healthy("");
    let fault = Fault {
        code: "cni".into(),
        about: "/etc/cni/net.d/10-bridge.conflist".into(),
        found: "the plug-in is not in it".into(),
        mend: "do this".into(),
    };
    pages(&mut facts.proxies, 0).faults.push(fault);
    let finding = wrong(&facts, "cni", Level::Error);
    assert!(finding.found.contains("10-bridge.conflist on n1") && mend(&finding) == "do this", "{finding:?}");
    // It was put back before anybody looked: that is told, too, and not as a fault of rules.
    let mut facts = healthy("");
    pages(&mut facts.proxies, 1).plugin_repairs = 2;
    let finding = wrong(&facts, "cni", Level::Warning);
    assert!(finding.found.contains("n2 (2 times)") && !mend(&finding).is_empty(), "{finding:?}");
}

#[test]
fn planted_a_node_that_serves_what_it_kept() {
    let mut facts = healthy("");
    let fault = Fault {
        code: "cache".into(),
        about: "the mesh".into(),
        found: "served from the cache of 2026-11-30T12:00:00Z".into(),
        mend: "let it reach the controller".into(),
    };
    pages(&mut facts.proxies, 0).faults.push(fault);
    let finding = wrong(&facts, "cache", Level::Warning);
    assert!(finding.found.contains("the mesh on n1: served from the cache of 2026"), "{finding:?}");
    assert_eq!(mend(&finding), "let it reach the controller");
}

#[test]
fn planted_a_stale_node() {
    let mut facts = healthy("");
    pages(&mut facts.controllers, 0).discovery.listeners.pop();
    let finding = wrong(&facts, "discovery", Level::Error);
    assert!(finding.found.contains("the proxy of n2 listens to no controller"), "{finding:?}");
    assert!(mend(&finding).contains("spec.nodeName=n2"), "{finding:?}");
    let mut facts = healthy("");
    pages(&mut facts.controllers, 0).discovery.listeners[0].behind = 7;
    assert!(wrong(&facts, "discovery", Level::Warning).found.contains("n1 (7 changes)"));
    let mut facts = healthy("");
    pages(&mut facts.proxies, 0).source_problems = 1;
    assert!(wrong(&facts, "discovery", Level::Warning).found.contains("n1 told of trouble"));
}

#[test]
fn planted_an_unready_controller() {
    let mut facts = healthy("");
    let deployment = facts.deployment.as_mut().unwrap().as_mut().unwrap();
    deployment.status.as_mut().unwrap().ready_replicas = Some(0);
    let pod = &mut facts.controllers.as_mut().unwrap()[0].pod;
    pod.status = Some(of(json!({
        "containerStatuses": [{
            "name": "c", "image": "", "imageID": "sha256:1", "ready": false, "restartCount": 3,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        }],
    })));
    let finding = wrong(&facts, "controller", Level::Error);
    assert!(
        finding.found.contains("0 of 1 replicas are ready (aquifer-controller-x: CrashLoopBackOff)"),
        "{finding:?}"
    );
    assert!(mend(&finding).starts_with("kubectl -n aquifer-system describe deployment/aquifer-controller"));
    // Where nothing is installed, only that is said.
    (facts.deployment, facts.controllers, facts.proxies) = (Ok(None), Ok(Vec::new()), Ok(Vec::new()));
    assert_eq!(mend(&wrong(&facts, "controller", Level::Error)), "aquifer install | kubectl apply -f -");
}

#[test]
fn planted_a_service_with_a_wrong_port_name() {
    let with = |port: &str| {
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: wrong, namespace: shop}}, spec: {{clusterIP: 10.96.0.2, selector: {{app: web}}, ports: [{port}]}}}}"
        );
        healthy(&service)
    };
    let dead = wrong(&with("{port: 80, targetPort: web}"), "service-ports", Level::Error);
    assert!(
        dead.found.contains("Service shop/wrong, port 80: it leads to the container port named \"web\""),
        "{dead:?}"
    );
    assert!(
        mend(&dead).starts_with("kubectl -n shop patch service wrong")
            && mend(&dead).contains("\"value\":\"http\""),
        "{dead:?}"
    );
    let udp = wrong(
        &with("{name: http-web, port: 80, targetPort: 8080, protocol: UDP}"),
        "service-ports",
        Level::Warning,
    );
    assert!(udp.found.contains("its protocol is UDP"), "{udp:?}");
    let unknown = wrong(
        &with("{port: 80, targetPort: 8080, appProtocol: kubernetes.io/http3}"),
        "service-ports",
        Level::Warning,
    );
    assert!(unknown.found.contains("nobody defines appProtocol"), "{unknown:?}");
    assert_eq!(unknown.whose.as_deref(), Some("the owner of namespace shop"));
}

#[test]
fn planted_a_policy_that_selects_nothing() {
    let with = |namespace: &str, spec: &str| {
        healthy(&format!(
            "{{apiVersion: aquifer.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, spec: {spec}}}"
        ))
    };
    let nothing = wrong(&with("shop", "{selector: {matchLabels: {app: webb}}}"), "policies", Level::Warning);
    assert!(nothing.found.contains("AuthorizationPolicy shop/p selects nothing: no pod has app=webb; pods here have app=client, app=web"), "{nothing:?}");
    assert!(mend(&nothing).contains("kubectl -n shop get pods --show-labels"));
    let outside = wrong(&with("legacy", "{}"), "policies", Level::Warning);
    assert!(
        outside.found.contains("none is in the mesh")
            && mend(&outside) == "kubectl label namespace legacy aquifer.dev/mesh=ambient",
        "{outside:?}"
    );
    let attached = wrong(
        &with("shop", "{targetRefs: [{kind: Service, group: '', name: cart}]}"),
        "policies",
        Level::Warning,
    );
    assert!(attached.found.contains("attached to Service shop/cart, which does not exist"), "{attached:?}");
    // A default for pods that are still to come is no fault.
    assert!(judge(&with("empty", "{}"), None).iter().all(|finding| finding.level == Level::Good));
}

#[test]
fn a_pod_that_opted_out_of_a_policy_is_told_and_no_fault() {
    let facts = healthy(
        "{apiVersion: v1, kind: Pod, metadata: {name: out, namespace: shop, uid: u-out, labels: {aquifer.dev/mesh: none}}, spec: {nodeName: n2}, status: {podIP: 10.2.0.8, phase: Running}}\n---\n\
         {apiVersion: aquifer.dev/v1alpha1, kind: PeerAuthentication, metadata: {name: all, namespace: shop}, spec: {mtls: {mode: STRICT}}}",
    );
    let all = judge(&facts, None);
    assert!(all.iter().all(|finding| finding.level == Level::Good), "{all:#?}");
    let told = all.iter().find(|finding| finding.check == "policies").unwrap();
    assert!(
        told.found.ends_with("outside the mesh by a label of its own, where nobody enforces it: shop/out"),
        "{told:?}"
    );
    assert!(mend(told).contains("kubectl -n shop label pod out aquifer.dev/mesh-"), "{told:?}");
}

/// A policy of the shop with what its controller wrote: generation of the object, and of the conditions.
fn with_status(spec: &str, taken: Taken, [now, observed]: [i64; 2], conditions: &[[&str; 4]]) -> Facts {
    let mut facts = healthy(&format!(
        "{{apiVersion: aquifer.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    ));
    let conditions = conditions.iter().map(|[condition, status, reason, message]| {
        of(json!({
            "type": condition, "status": status, "reason": reason, "message": message,
            "observedGeneration": observed, "lastTransitionTime": "2026-01-01T00:00:00Z",
        }))
    });
    let written = Written { generation: now, conditions: conditions.collect(), ..Written::default() };
    let problem = aquifer_source::Problem {
        file: "AuthorizationPolicy shop/p".into(),
        document: None,
        line: None,
        column: None,
        field: None,
        severity: aquifer_source::Severity::Error,
        message: "found here".into(),
    };
    let problems = if taken == Taken::AsWritten { Vec::new() } else { vec![problem] };
    let key = Key::new(Kind::AuthorizationPolicy, &"shop".into(), &"p".into());
    let standing = Standing { written, taken, problems };
    facts.mesh.as_mut().unwrap().policies = std::sync::Arc::new([(key, standing)].into());
    facts
}

#[test]
fn what_the_controller_wrote_into_a_policy_counts_while_it_is_of_now() {
    const GOOD: [&str; 4] = ["Accepted", "True", "Accepted", "is taken as written"];
    let web = "{selector: {matchLabels: {app: web}}, rules: [{}]}";
    let nobody = ["Enforced", "False", "SelectsNothing", "selects nothing: so it was told. Mend: do so"];
    let told =
        wrong(&with_status(web, Taken::AsWritten, [2, 2], &[GOOD, nobody]), "policies", Level::Warning);
    assert_eq!(told.found, "AuthorizationPolicy shop/p selects nothing: so it was told");
    assert_eq!((mend(&told), told.whose.as_deref()), ("do so", Some("the owner of namespace shop")));
    // What was written of an earlier version does not count.
    let old = judge(&with_status(web, Taken::AsWritten, [3, 2], &[GOOD, nobody]), None);
    assert!(old.iter().all(|finding| finding.level == Level::Good), "{old:#?}");
}

#[test]
fn a_policy_that_is_not_accepted_is_told_once() {
    let invalid = ["Accepted", "False", "Invalid", "cannot be taken as written: x. Mend: write it so"];
    let instead = ["Enforced", "False", "Invalid", "denies all calls instead"];
    let mut facts = with_status("{rules: [{}]}", Taken::StandIn, [1, 1], &[invalid, instead]);
    let line =
        "AuthorizationPolicy shop/p: spec.action: error: no action; its last good version stays in use";
    pages(&mut facts.controllers, 0).discovery.problems = vec![line.into()];
    let told = wrong(&facts, "policies", Level::Error);
    assert_eq!(told.found, "AuthorizationPolicy shop/p cannot be taken as written: x");
    // Before it has a status, the controller says what is in use.
    let mut facts = with_status("{rules: [{}]}", Taken::StandIn, [1, 1], &[]);
    assert!(wrong(&facts, "policies", Level::Error).found.contains("found here"));
    pages(&mut facts.controllers, 0).discovery.problems = vec![line.into()];
    assert!(wrong(&facts, "policies", Level::Error).found.ends_with("its last good version stays in use"));
}

#[test]
fn a_conflict_is_told_with_who_decides_and_once() {
    let [accepted, overridden] =
        [["Accepted", "True", "Accepted", ""], ["Enforced", "False", "Overridden", "decides nowhere"]];
    let conflict = ["Conflicted", "True", "SameScope", "has the same scope as b. Mend: keep one"];
    let facts = with_status("{rules: [{}]}", Taken::AsWritten, [1, 1], &[accepted, overridden, conflict]);
    assert!(wrong(&facts, "policies", Level::Warning).found.ends_with("has the same scope as b"));
}

#[test]
fn controllers_of_which_none_leads_are_told() {
    let mut facts = healthy("");
    pages(&mut facts.controllers, 0).discovery.leads = Some(false);
    assert!(mend(&wrong(&facts, "leader", Level::Warning)).contains("get lease aquifer-controller"));
}

#[test]
fn planted_a_version_skew() {
    let mut facts = healthy("");
    let pod = &mut facts.proxies.as_mut().unwrap()[1].pod;
    pod.spec.as_mut().unwrap().containers[0].image = Some("ghcr.io/aquifer-mesh/aquifer:0.0.9".into());
    let finding = wrong(&facts, "versions", Level::Warning);
    assert!(finding.found.contains("aquifer:0.0.9 (aquifer-node-n2)"), "{finding:?}");
    assert!(mend(&finding).contains("aquifer upgrade | kubectl apply -f -"), "{finding:?}");
    let mut facts = healthy("");
    let pod = &mut facts.proxies.as_mut().unwrap()[1].pod;
    pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].image_id = "sha256:2".into();
    assert!(wrong(&facts, "versions", Level::Warning).found.contains("its tag was moved"));
}

#[test]
fn a_pod_that_its_node_has_not_in_the_mesh_is_told_with_the_reason() {
    let mut facts = healthy("");
    pages(&mut facts.proxies, 1).enrolments[0] =
        of(json!({ "uid": "u-web", "ready": false, "why": "no certificate" }));
    let finding = wrong(&facts, "enrolment", Level::Error);
    assert!(
        finding.found.contains("1 of 2 pods") && finding.found.contains("shop/web (no certificate)"),
        "{finding:?}"
    );
}

#[test]
fn a_certificate_that_is_not_renewed_is_told_before_it_ends() {
    let mut facts = healthy("");
    pages(&mut facts.proxies, 0).certificates.certificates[0].last_error =
        Some("the controller refuses".into());
    assert!(wrong(&facts, "certificates", Level::Warning).found.contains("the controller refuses"));
    pages(&mut facts.proxies, 0).certificates.certificates[0].not_after = NOW;
    assert!(wrong(&facts, "certificates", Level::Error).found.contains("have ended"));
}

#[test]
fn what_the_controller_could_not_read_is_told() {
    let mut facts = healthy("");
    pages(&mut facts.controllers, 0).discovery.problems = vec![
        "AuthorizationPolicy shop/x: spec.action: error: no action".into(),
        "Pod shop/y: note: z".into(),
    ];
    let finding = wrong(&facts, "objects", Level::Error);
    assert_eq!(finding.found, "AuthorizationPolicy shop/x: spec.action: error: no action");
}

#[test]
fn a_node_without_a_proxy_is_told() {
    let mut facts = healthy("");
    facts.nodes.as_mut().unwrap().push(of(json!({ "metadata": { "name": "n3" } })));
    assert!(wrong(&facts, "node-proxies", Level::Error).found.contains("n3 (it has none)"));
}

#[test]
fn planted_a_taint_that_nobody_takes_off() {
    let planted = |option: &str, ready_since: i64| {
        let mut facts = healthy("");
        facts.nodes.as_mut().unwrap()[1].spec = Some(of(json!({ "taints": [
            { "key": "other", "effect": "NoSchedule" }, { "key": "aquifer.dev/not-ready", "effect": "NoExecute" },
        ] })));
        let env = json!([{ "name": "AQUIFER_UNTAINT_NODES", "value": option }]);
        let template = json!({ "spec": { "containers": [{ "name": "controller", "env": env }] } });
        facts.deployment.as_mut().unwrap().as_mut().unwrap().spec.as_mut().unwrap().template = of(template);
        let pod = &mut facts.proxies.as_mut().unwrap()[1].pod;
        let since = jiff::Timestamp::from_second(ready_since).unwrap();
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time =
            Some(aquifer_k8s::Time(since));
        facts
    };
    let off = wrong(&planted("false", NOW), "taints", Level::Warning);
    assert!(off.found.starts_with("n2 has the taint aquifer.dev/not-ready"), "{off:?}");
    assert!(mend(&off).contains("`--untaint-nodes`"), "{off:?}");
    assert!(mend(&off).ends_with("kubectl taint nodes n2 aquifer.dev/not-ready-"), "{off:?}");
    let on = wrong(&planted("true", NOW - 300), "taints", Level::Warning);
    assert!(on.found.ends_with("off n2 (its proxy is ready for 300 s)"), "{on:?}");
    assert!(mend(&on).contains("logs -l app.kubernetes.io/name=aquifer-controller"), "{on:?}");
    // It is on its way.
    let all = judge(&planted("true", NOW - 1), None);
    assert!(all.iter().all(|finding| finding.level == Level::Good), "{all:#?}");
    assert!(all.iter().any(|finding| finding.check == "taints"));
}

#[test]
fn a_proxy_that_does_not_answer_is_told_with_its_node() {
    let mut facts = healthy("");
    facts.proxies.as_mut().unwrap()[1].pages = Err("late".into());
    let all = judge(&facts, None);
    let wrong: Vec<&str> =
        all.iter().filter(|finding| finding.level > Level::Good).map(|finding| finding.check).collect();
    // What it would say of its pods is missing, too.
    assert_eq!(wrong, ["admin-pages", "enrolment"]);
}
