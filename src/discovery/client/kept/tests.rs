use std::sync::Arc;

use aquifer_model::{
    Action, AuthorizationPolicy, NamespacedName, Node, PodUid, PolicyScope, Rule, WorkloadFacts, difference,
};

use super::*;
use crate::testing;

fn node(name: &str) -> Update {
    let (region, zone) = ("".into(), "west".into());
    Update::Node(Arc::new(Node { name: name.into(), region, zone, pod_cidrs: Vec::new() }))
}

fn policy(name: &str) -> Update {
    Update::Authorization(Arc::new(AuthorizationPolicy {
        name: NamespacedName::new("shop", name),
        scope: PolicyScope::Namespace,
        action: Action::Deny,
        rules: vec![Rule { clauses: Vec::new(), l7: false }],
    }))
}

fn workload(index: usize) -> Update {
    let name = format!("web-{index}");
    let facts = WorkloadFacts {
        uid: PodUid::new(format!("00000000-0000-0000-0000-{index:012}")),
        service_account: "web".into(),
        addresses: [std::net::IpAddr::from([10, 1, (index >> 8) as u8, index as u8])].into_iter().collect(),
        node: "a".into(),
        labels: vec![("app".into(), "web".into())],
        owner: Some(("ReplicaSet".into(), "web".into())),
        ..testing::pod("shop", &name)
    };
    Update::Workload(Arc::new(facts.into()))
}

/// More than one answer of workloads, and none of services.
fn world() -> Vec<Update> {
    let mut updates = vec![node("a"), node("b"), policy("deny")];
    updates.extend((0..2000).map(workload));
    updates
}

fn kept(updates: Vec<Update>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = write(&mut bytes, b"ours", updates).unwrap();
    assert_eq!(length, bytes.len() as u64);
    bytes
}

fn ours(label: &[u8]) -> Result<(), String> {
    if label == b"ours" { Ok(()) } else { Err("another's".into()) }
}

#[test]
fn a_moment_is_what_it_was() {
    for updates in [world(), Vec::new()] {
        let bytes = kept(updates.clone());
        let ((), back) = read(&*bytes, ours).unwrap();
        assert_eq!(back.len(), updates.len());
        assert_eq!(difference(updates, back), [], "in whatever order");
        fuzz_kept(&bytes);
    }
}

#[test]
fn nothing_of_one_that_was_cut_off_or_changed_is_used() {
    let bytes = kept(vec![node("a"), policy("deny"), workload(1)]);
    for at in 0..bytes.len() {
        assert!(read(&bytes[..at], ours).is_err(), "{at} bytes of {}", bytes.len());
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(read(&*changed, ours).is_err(), "with byte {at} changed");
    }
}

#[test]
fn what_is_another_s_or_of_another_format_is_told_from_what_is_broken() {
    let mut bytes = Vec::new();
    write(&mut bytes, b"theirs", [node("a")]).unwrap();
    assert!(matches!(read(&*bytes, ours), Err(KeptError::NotOurs(why)) if why == "another's"));
    for foreign in [&b""[..], b"{}", b"aquifer moment 2\nand more"] {
        assert!(matches!(read(foreign, ours), Err(KeptError::Foreign)));
    }
    let mut huge = MAGIC.to_vec();
    huge.extend([0xff; 100]);
    assert!(matches!(read(&*huge, ours), Err(KeptError::Torn(why)) if why.contains("larger")));
    // A policy that a later version wrote: without it all would be allowed.
    let mut bytes = Vec::new();
    write(&mut bytes, b"ours", [policy("later")]).unwrap();
    let sum_and_end = 8 + 8;
    let mut answer = empty(Type::AuthorizationPolicy);
    answer.resources.push(Resource { name: "shop/later".into(), ..Resource::default() });
    bytes.truncate(bytes.len() - sum_and_end);
    frame(&mut bytes, &answer.encode_to_vec()).unwrap();
    assert!(matches!(read(&*bytes, ours), Err(KeptError::Unreadable(_))));
}

/// Mutations of what cannot be read lead nowhere.
#[test]
fn the_corpus_of_the_fuzz_target_is_a_moment() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integration/fuzz/corpus/moment/all-types");
    let (_, updates) = read(&*std::fs::read(path).unwrap(), |label| Ok(label.len())).unwrap();
    assert!(updates.len() >= Type::ALL.len());
}
