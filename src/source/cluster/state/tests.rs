use aquifer_model::{Action, Update};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::json::tree;
use super::*;
use crate::read::read_object;
use crate::{TranslateConfig, translate};

fn read(object: Json) -> Contents {
    read_object(&tree(object), &TranslateConfig::default())
}

fn pod(name: &str, ip: &str) -> Json {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "managedFields": [{ "manager": "x" }] },
        "spec": { "nodeName": "n1", "containers": [] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
    })
}

fn policy(action: Json) -> Json {
    json!({
        "apiVersion": "aquifer.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "p", "namespace": "shop" },
        "spec": { "action": action, "rules": [{}] },
    })
}

fn pod_key(name: &str) -> Key {
    Key::new(Kind::Pod, &"shop".into(), &name.into())
}

/// A state in which all resources were told whole, with these pods.
fn synced(pods: &[(&str, &str)]) -> State {
    let mut state = State::new();
    for resource in RESOURCES {
        assert!(!state.has_news(), "it speaks before everything was told");
        let all = if resource.kind == Kind::Pod {
            News::Whole(pods.iter().map(|(name, ip)| read(pod(name, ip))).collect())
        } else if resource.is_optional() {
            News::Absent
        } else {
            News::Whole(Vec::new())
        };
        state.take(resource.kind, all);
    }
    state
}

fn pods_of(batch: &Batch) -> Vec<String> {
    let told = batch.updates.iter().filter_map(|update| match update {
        Update::Workload(workload) => Some(format!("+{}", workload.pod().name)),
        Update::WorkloadGone(name) => Some(format!("-{name}")),
        _ => None,
    });
    let mut told: Vec<String> = told.collect();
    told.sort();
    told
}

#[test]
fn nothing_is_said_before_every_resource_was_told_and_then_all_at_once() {
    let mut state = synced(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    assert!(state.has_news());
    let batch = state.commit();
    assert!(batch.synced && batch.problems.is_empty());
    assert_eq!(pods_of(&batch), ["+a", "+b"]);
    assert!(!state.has_news());
}

#[test]
fn a_list_that_begins_anew_leads_to_the_difference() {
    let mut state = synced(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    state.commit();
    state.take(Kind::Pod, News::Trouble("the connection broke".to_owned()));
    let batch = state.commit();
    assert!(batch.updates.is_empty(), "trouble takes nothing away");
    assert!(batch.problems[0].to_string().contains("the connection broke"), "{:?}", batch.problems);
    state.take(Kind::Pod, News::Whole(vec![read(pod("b", "10.0.0.9")), read(pod("c", "10.0.0.3"))]));
    let batch = state.commit();
    assert_eq!(pods_of(&batch), ["+b", "+c", "-Kubernetes//Pod/shop/a"]);
    assert!(batch.problems.is_empty());
}

#[test]
fn what_is_the_same_is_not_said() {
    let mut state = synced(&[("a", "10.0.0.1")]);
    state.commit();
    state.take(Kind::Pod, News::Put(read(pod("a", "10.0.0.1"))));
    assert!(!state.has_news());
    state.take(Kind::Pod, News::Gone(pod_key("never")));
    assert!(!state.has_news());
}

#[test]
fn a_policy_that_cannot_be_read_keeps_its_last_version_or_denies() {
    let denies = |batch: &Batch, action: Action| {
        let [Update::Authorization(policy)] = batch.updates.as_slice() else { panic!("{:?}", batch.updates) };
        assert_eq!(policy.action, action);
    };
    let mut state = synced(&[]);
    state.commit();
    // New and unreadable: it denies, and says so.
    state.take(Kind::AuthorizationPolicy, News::Put(read(policy(json!({ "no": "text" })))));
    let batch = state.commit();
    denies(&batch, Action::Unknown);
    assert!(batch.problems[0].to_string().starts_with("AuthorizationPolicy shop/p"), "{:?}", batch.problems);
    // Mended.
    state.take(Kind::AuthorizationPolicy, News::Put(read(policy(json!("DENY")))));
    let batch = state.commit();
    denies(&batch, Action::Deny);
    assert!(batch.problems.is_empty());
    // Broken again: the last good version stays.
    state.take(Kind::AuthorizationPolicy, News::Put(read(policy(json!(7)))));
    let batch = state.commit();
    assert!(batch.updates.is_empty(), "{:?}", batch.updates);
    assert!(batch.problems[0].message.contains("last good version"), "{:?}", batch.problems);
    // Gone, and its kind with it.
    state.take(Kind::AuthorizationPolicy, News::Absent);
    let batch = state.commit();
    assert!(matches!(batch.updates.as_slice(), [Update::AuthorizationGone(_)]) && batch.problems.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u8),
    Gone(usize),
    Whole(Vec<(usize, u8)>),
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6usize, 1..9u8).prop_map(|(pod, ip)| Step::Put(pod, ip)),
        2 => (0..6usize).prop_map(Step::Gone),
        1 => proptest::collection::vec((0..6usize, 1..9u8), 0..6).prop_map(Step::Whole),
        2 => Just(Step::Commit),
    ]
}

proptest! {
    /// Wherever batches are cut, their sum is the world of the objects that stand at the end.
    #[test]
    fn any_cut_of_the_news_leads_to_the_same_world(steps in proptest::collection::vec(step(), 0..40)) {
        let name = |pod: usize| format!("p{pod}");
        let object = |pod: usize, ip: u8| read(pod_at(&name(pod), ip));
        let mut state = synced(&[]);
        let mut told: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
        let mut expected: std::collections::BTreeMap<usize, u8> = std::collections::BTreeMap::new();
        let take = |batch: Batch, told: &mut std::collections::BTreeMap<String, String>| {
            for update in batch.updates {
                match update {
                    Update::Workload(workload) => {
                        told.insert(workload.name().to_string(), format!("{:?}", workload.addresses()));
                    }
                    Update::WorkloadGone(gone) => _ = told.remove(&gone.to_string()),
                    _ => {}
                }
            }
        };
        for step in steps {
            match step {
                Step::Put(pod, ip) => {
                    state.take(Kind::Pod, News::Put(object(pod, ip)));
                    expected.insert(pod, ip);
                }
                Step::Gone(pod) => {
                    state.take(Kind::Pod, News::Gone(pod_key(&name(pod))));
                    expected.remove(&pod);
                }
                Step::Whole(pods) => {
                    // A list names each object once.
                    expected = pods.into_iter().collect();
                    state.take(Kind::Pod, News::Whole(expected.iter().map(|(pod, ip)| object(*pod, *ip)).collect()));
                }
                Step::Commit => take(state.commit(), &mut told),
            }
        }
        take(state.commit(), &mut told);
        let world = translate(&state.into_objects());
        let mut fresh = std::collections::BTreeMap::new();
        take(Batch { updates: World::default().diff(&world), ..Batch::default() }, &mut fresh);
        prop_assert_eq!(&told, &fresh);
        prop_assert_eq!(told.len(), expected.len());
    }
}

fn pod_at(name: &str, ip: u8) -> Json {
    pod(name, &format!("10.0.0.{ip}"))
}

/// A policy as a watch tells it: with what stands in the object besides its spec.
fn told(action: Json, generation: i64, conditions: Json) -> Contents {
    let mut object = policy(action);
    object["metadata"]["uid"] = "u".into();
    object["metadata"]["generation"] = generation.into();
    object["status"] = json!({ "conditions": conditions });
    let written = Some(Written::read(&object));
    Contents { written, ..read(object) }
}

#[test]
fn of_a_policy_it_is_known_how_it_was_taken_and_what_its_status_says() {
    let kind = Kind::AuthorizationPolicy;
    let mut state = synced(&[]);
    let standing = |state: &mut State| state.commit().policies.values().next().cloned();
    state.take(kind, News::Put(told(json!("NO"), 1, json!([]))));
    let first = standing(&mut state).unwrap();
    assert_eq!((first.taken, first.written.generation), (Taken::StandIn, 1));
    assert!(first.problems[0].message.contains("denies all calls"), "{first:?}");

    state.take(kind, News::Put(told(json!("DENY"), 2, json!([]))));
    assert_eq!(standing(&mut state).unwrap().taken, Taken::AsWritten);
    state.take(kind, News::Put(told(json!("NO"), 3, json!([]))));
    let kept = standing(&mut state).unwrap();
    assert_eq!((kept.taken, kept.written.current()), (Taken::LastGood, None));

    // A status that was written is news, and no change of the mesh; what is none of ours, or no condition, is not looked at.
    let condition = |of: &str| json!({ "type": of, "status": "True", "reason": "R", "message": "m", "observedGeneration": 3, "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let all = json!([condition("Accepted"), condition("Other"), { "type": "Enforced" }, 7]);
    state.take(kind, News::Put(told(json!("NO"), 3, all.clone())));
    assert!(state.has_news());
    let batch = state.commit();
    assert!(batch.updates.is_empty(), "{:?}", batch.updates);
    let written = &batch.policies.values().next().unwrap().written;
    assert_eq!(written.current().unwrap().len(), 1);
    state.take(kind, News::Put(told(json!("NO"), 3, all)));
    assert!(!state.has_news(), "the same again is no news");

    state.take(kind, News::Gone(Key::new(kind, &"shop".into(), &"p".into())));
    assert!(standing(&mut state).is_none());
}
