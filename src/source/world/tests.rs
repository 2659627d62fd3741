use super::*;
use crate::testing::{Seen, objects};

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: []}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: other}
status: {podIP: 10.0.0.2}
"#;

/// The updates that follow when objects of the second text take the place of those in the first.
fn edited(to: &str) -> (World, World, Vec<Update>) {
    let mut all = objects(SHOP);
    let before = translate(&all);
    let mut after = before.clone();
    let new = objects(to);
    let keys: Vec<Key> = new.iter().map(|(key, _)| key.clone()).collect();
    for (key, object) in new.iter() {
        all.insert(key.clone(), object.clone());
    }
    let updates = after.advance(&all, &keys);
    assert_eq!(after, translate(&all));
    assert_eq!(updates, before.diff(&after));
    (before, after, updates)
}

#[test]
fn what_is_equal_yields_no_update_and_keeps_its_place_in_memory() {
    let (before, after, updates) = edited(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: new, namespace: shop}\nstatus: {podIP: 10.0.0.3}\n",
    );
    assert!(matches!(updates.as_slice(), [Update::Workload(new)] if new.pod().name == "new"), "{updates:#?}");
    let (before, after) = (Seen::new(&before), Seen::new(&after));
    for old in &before.workloads {
        assert!(after.workloads.iter().any(|new| Arc::ptr_eq(old, new)), "{} moved", old.name());
    }
    assert!(Arc::ptr_eq(&before.services[0], &after.services[0]));
    assert!(Arc::ptr_eq(&before.slices[0], &after.slices[0]));
}

#[test]
fn the_label_of_a_namespace_moves_its_pods_and_no_others() {
    let (_, _, updates) = edited(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {aquifer.dev/mesh: ambient}}\n",
    );
    let [Update::Workload(web)] = updates.as_slice() else { panic!("{updates:#?}") };
    assert!(web.pod().name == "web" && web.membership() == Membership::Desired);
}

#[test]
fn a_pod_that_joins_a_service_is_one_slice_more_to_tell() {
    let (_, _, updates) = edited(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web2, namespace: shop, labels: {app: web}}\nstatus: {podIP: 10.0.0.3}\n",
    );
    let [Update::Workload(_), Update::EndpointSlice(slice)] = updates.as_slice() else {
        panic!("{updates:#?}")
    };
    assert_eq!(slice.endpoints.len(), 2);
}

#[test]
fn a_zone_that_changes_is_told_with_the_endpoints_in_it() {
    let (_, _, updates) = edited(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: b}}\n",
    );
    let [Update::EndpointSlice(slice), Update::Node(_)] = updates.as_slice() else { panic!("{updates:#?}") };
    assert_eq!(slice.endpoints[0].zone, "b");
}

#[test]
fn a_slice_that_somebody_gives_takes_the_place_of_those_made_from_pods() {
    let (_, _, updates) = edited(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: []\n",
    );
    let [Update::EndpointSliceGone(gone), Update::EndpointSlice(given)] = updates.as_slice() else {
        panic!("{updates:#?}")
    };
    assert_eq!((gone.name.as_ref(), given.name.name.as_ref()), ("web@0", "web-1"));
}
