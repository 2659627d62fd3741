use aquifer_model::Membership;

use crate::testing::{objects, said, world};
use crate::{Kind, Object};

const HEAD: &str = "apiVersion: v1\nkind: Pod\n";

#[test]
fn a_pod_has_all_that_the_model_asks_for() {
    let world = world(
        r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {aquifer.dev/mesh: ambient}}
---
apiVersion: v1
kind: Pod
metadata:
  name: cart-5d8f-x2x
  namespace: shop
  uid: 11-22
  creationTimestamp: 2026-01-01T00:00:00Z
  labels: {version: v2, app: cart, pod-template-hash: 5d8f}
  annotations: {aquifer.dev/netns: /var/run/netns/cart}
  ownerReferences:
  - {apiVersion: apps/v1, kind: ReplicaSet, name: cart-5d8f, uid: a, controller: true}
spec:
  nodeName: n1
  serviceAccountName: cart
  initContainers:
  - {name: once, ports: [{name: never, containerPort: 1}]}
  - {name: side, restartPolicy: Always, ports: [{name: side, containerPort: 9}]}
  containers:
  - name: main
    image: x
    resources: {limits: {cpu: 2, memory: 1Gi}}
    ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns, containerPort: 54}, {containerPort: 80}]
status:
  phase: Running
  podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]
  podIP: 10.0.0.1
  conditions: [{type: Ready, status: "False"}]
"#,
    );
    let pod = world.workload("shop/cart-5d8f-x2x");
    assert_eq!(pod.name().to_string(), "Kubernetes//Pod/shop/cart-5d8f-x2x");
    assert_eq!(pod.uid().to_string(), "11-22");
    assert_eq!(pod.identity().to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(pod.addresses().iter().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
    assert_eq!(pod.node().as_str(), "n1");
    assert_eq!(pod.label("app").unwrap(), "cart");
    assert_eq!(
        (pod.named_port("dns"), pod.named_port("side"), pod.named_port("never")),
        (Some(54), Some(9), None)
    );
    assert_eq!((pod.owner().0, pod.owner().1.as_str()), ("deployment", "cart"));
    assert_eq!((pod.canonical_name().as_str(), pod.canonical_revision().as_str()), ("cart", "v2"));
    assert_eq!(pod.membership(), Membership::Desired);
    assert_eq!(pod.netns().unwrap().to_str(), Some("/var/run/netns/cart"));
    assert!(!pod.host_network() && !pod.terminating() && !pod.finished());
}

#[test]
fn the_labels_decide_who_is_in_the_mesh() {
    let pod = |namespace: &str, name: &str, label: &str| {
        format!("---\n{HEAD}metadata: {{name: {name}, namespace: {namespace}, labels: {{{label}}}}}\n")
    };
    let (ambient, none, odd) =
        ("aquifer.dev/mesh: ambient", "aquifer.dev/mesh: none", "aquifer.dev/mesh: ambiant");
    let mut yaml = String::new();
    for (namespace, label) in [("in", ambient), ("plain", ""), ("odd", odd)] {
        yaml += &format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{{label}}}}}\n"
        );
        for (name, label) in [("unsaid", ""), ("opted-in", ambient), ("opted-out", none), ("odd", odd)] {
            yaml += &pod(namespace, name, label);
        }
    }
    yaml += &pod("nowhere", "unsaid", "");
    let world = world(&yaml);
    for (pod, expected) in [
        ("in/unsaid", Membership::Desired),
        ("in/opted-in", Membership::Desired),
        ("in/opted-out", Membership::Outside),
        ("in/odd", Membership::Desired),
        ("plain/unsaid", Membership::Outside),
        ("plain/opted-in", Membership::Desired),
        ("plain/odd", Membership::Outside),
        ("odd/unsaid", Membership::Outside),
        ("nowhere/unsaid", Membership::Outside),
    ] {
        assert_eq!(world.workload(pod).membership(), expected, "{pod}");
    }
    let odd = said(&yaml).into_iter().filter(|text| text.contains("ambiant")).collect::<Vec<_>>();
    assert_eq!(odd.len(), 4, "{odd:?}");
    assert!(odd[0].contains(r#"metadata.labels["aquifer.dev/mesh"] Warning"#), "{odd:?}");
}

/// Pod fields, ready, terminating, finished.
#[test]
fn the_status_says_how_far_a_pod_is() {
    for (rest, expected) in [
        ("", (true, false, false)),
        ("status: {podIP: 10.0.0.1}\n", (true, false, false)),
        ("status: {phase: Running}\n", (true, false, false)),
        ("status: {phase: Pending}\n", (false, false, false)),
        ("status: {phase: Unknown}\n", (false, false, false)),
        ("status: {phase: Running, conditions: [{type: Ready, status: 'False'}]}\n", (false, false, false)),
        ("status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}\n", (true, false, false)),
        ("status: {phase: Succeeded}\n", (false, false, true)),
        ("status: {phase: Failed}\n", (false, false, true)),
    ] {
        let objects = objects(&format!("{HEAD}metadata: {{name: p}}\n{rest}"));
        let (_, object) = objects.iter().next().unwrap();
        let Object::Pod(pod) = object else { panic!("{object:?}") };
        assert_eq!((pod.ready, pod.workload.terminating(), pod.workload.finished()), expected, "{rest}");
        assert_eq!(pod.workload.namespace().as_ref(), "default");
        assert_eq!(pod.workload.identity().service_account.as_ref(), "default");
    }
    let world = world(&format!(
        "{HEAD}metadata: {{name: p, deletionTimestamp: 2026-01-01T00:00:00Z}}\nspec: {{hostNetwork: true, containers: []}}\n"
    ));
    assert!(world.workload("default/p").terminating() && world.workload("default/p").host_network());
}

#[test]
fn owners_are_named_as_istio_names_them() {
    for (kind, owner, labels, expected) in [
        ("ReplicaSet", "web-5d8f", "pod-template-hash: 5d8f", ("deployment", "web")),
        ("ReplicaSet", "web-5d8f", "app: x", ("pod", "p")),
        ("ReplicaSet", "5d8f", "pod-template-hash: 5d8f", ("pod", "p")),
        ("Job", "nightly-28012345", "app: x", ("cronjob", "nightly")),
        ("Job", "nightly-1234567", "app: x", ("job", "nightly-1234567")),
        ("Job", "import", "app: x", ("job", "import")),
        ("StatefulSet", "db", "app: x", ("pod", "p")),
        ("DaemonSet", "agent", "app: x", ("pod", "p")),
    ] {
        for controller in [true, false] {
            let world = world(&format!(
                "{HEAD}metadata:\n  name: p\n  labels: {{{labels}}}\n  ownerReferences:\n  \
                 - {{apiVersion: v1, kind: {kind}, name: {owner}, uid: u, controller: {controller}}}\n"
            ));
            let found = world.workload("default/p").owner();
            let expected = if controller { expected } else { ("pod", "p") };
            assert_eq!((found.0, found.1.as_str()), expected, "{kind} {owner}");
        }
    }
}

#[test]
fn canonical_names_follow_the_labels_in_their_order() {
    for (labels, name, revision) in [
        ("", "p", "latest"),
        ("app: a, version: v1", "a", "v1"),
        ("app: a, app.kubernetes.io/name: b, app.kubernetes.io/version: v2, version: v1", "b", "v2"),
        ("app: a, service.istio.io/canonical-name: c, service.istio.io/canonical-revision: r", "c", "r"),
        ("app: ''", "p", "latest"),
    ] {
        let world = world(&format!("{HEAD}metadata: {{name: p, labels: {{{labels}}}}}\n"));
        let pod = world.workload("default/p");
        assert_eq!(
            (pod.canonical_name().as_str(), pod.canonical_revision().as_str()),
            (name, revision),
            "{labels}"
        );
    }
}

#[test]
fn a_pod_without_uid_is_another_when_its_address_or_namespace_is() {
    let uid = |ip: &str, netns: &str, label: &str| {
        let world = world(&format!(
            "{HEAD}metadata: {{name: p, labels: {{a: {label}}}, annotations: {{aquifer.dev/netns: {netns}}}}}\nstatus: {{podIP: {ip}}}\n"
        ));
        world.workload("default/p").uid().clone()
    };
    let one = uid("10.0.0.1", "/run/netns/a", "x");
    assert_eq!(one, uid("10.0.0.1", "/run/netns/a", "y"));
    assert_ne!(one, uid("10.0.0.2", "/run/netns/a", "x"));
    assert_ne!(one, uid("10.0.0.1", "/run/netns/b", "x"));
}

#[test]
fn what_a_pod_has_wrong_is_named() {
    for (rest, expected) in [
        (
            "metadata: {name: p}\nstatus: {podIP: 10.0.0.300}\n",
            "1:4:17 status.podIP Error: \"10.0.0.300\" is no IP address",
        ),
        ("metadata: {name: Bad_Name}\n", "1:3:18 metadata.name Error: \"Bad_Name\" is no Kubernetes name"),
        (
            "metadata: {namespace: a.b, name: p}\n",
            "1:3:23 metadata.namespace Error: \"a.b\" is no Kubernetes name",
        ),
        ("metadata: {namespace: shop}\n", "1:3:11 metadata.name Error: the object has no name"),
        (
            "metadata: {name: p, labels: {version: 1}}\n",
            "1:3:39 metadata.labels.version Error: expected a text, found 1; put it in quotes",
        ),
        (
            "metadata: {name: p, annotations: {aquifer.dev/netns: netns/a}}\n",
            "1:3:54 metadata.annotations[\"aquifer.dev/netns\"] Error: \"netns/a\" is no absolute path",
        ),
        (
            "metadata: {name: p}\nspec:\n  containers:\n  - name: c\n    ports: [{name: x, containerPort: 0}]\n",
            "1:7:38 spec.containers[0].ports[0].containerPort Error: 0 is no port",
        ),
        (
            "metadata: {name: p}\nspec: {serviceAccountName: A/B, containers: []}\n",
            "1:4:28 spec.serviceAccountName Error: \"A/B\" is no Kubernetes name",
        ),
        ("metadata: {name: p}\nspec: {containers: {}}\n", "1:4:20 spec.containers Error: invalid type: map"),
    ] {
        let said = said(&format!("{HEAD}{rest}"));
        assert!(said[0].starts_with(expected), "\n{}\n{expected}", said[0]);
    }
    assert!(
        said(&format!("{HEAD}metadata: {{name: p}}\n"))[0].contains("status Warning: the pod has no address")
            || said(&format!("{HEAD}metadata: {{name: p}}\n"))[0]
                .contains("status.podIP Warning: the pod has no address")
    );
}

#[test]
fn every_kind_is_read_and_counted() {
    let list = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}, spec: {podCIDRs: [10.1.0.0/24]}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: shop}}
- apiVersion: v1
  kind: PodList
  items: [{metadata: {name: one}}, {metadata: {name: two}}]
"#;
    let counts = objects(list).counts().0;
    assert_eq!(counts.get(&Kind::Pod), Some(&2));
    assert_eq!(counts.len(), 4);
}
