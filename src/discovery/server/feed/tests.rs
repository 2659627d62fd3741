use std::collections::HashMap;

use aquifer_model::Node;

use crate::server::store::{REMEMBERED, Told};
use crate::version::version_text;

use super::*;

fn node(name: &str, zone: &str) -> Update {
    Update::Node(Arc::new(Node {
        name: name.into(),
        region: "".into(),
        zone: zone.into(),
        pod_cidrs: vec![],
    }))
}

fn names(told: &[Told]) -> Vec<String> {
    let mut names: Vec<String> = told
        .iter()
        .map(|told| format!("{}{}", if told.here.is_some() { "+" } else { "-" }, told.name))
        .collect();
    names.sort();
    names
}

#[test]
fn the_difference_is_what_changed_last_and_each_name_once() {
    let feed = Feed::new();
    feed.apply(&[node("a", "1"), node("b", "1")], false);
    let at = feed.look(|look| look.revision());
    feed.apply(&[node("a", "2"), node("c", "1"), Update::NodeGone("b".into())], true);
    feed.apply(&[node("a", "3"), node("c", "1")], true);
    feed.look(|look| {
        assert_eq!(names(&look.since(Type::Node.index(), at).ok().unwrap()), ["+a", "+c", "-b"]);
        assert!(look.since(Type::Node.index(), look.revision()).ok().unwrap().is_empty());
        assert!(look.since(Type::Workload.index(), 0).ok().unwrap().is_empty());
    });
    assert_eq!(feed.counts()[Type::Node.index()], (Type::Node, 2));
}

#[test]
fn who_comes_back_is_told_what_it_lacks_and_what_is_gone() {
    let feed = Feed::new();
    feed.apply(&[node("a", "1"), node("b", "1"), node("c", "1")], true);
    let versions = |names: &[&str]| -> HashMap<String, String> {
        let told = feed.look(|look| look.beside(Type::Node.index(), &HashMap::new()));
        let known =
            told.into_iter().filter_map(|told| Some((told.name.to_string(), version_text(told.here?.0))));
        known.filter(|(name, _)| names.contains(&name.as_str())).collect()
    };
    let mut has = versions(&["a", "b"]);
    has.insert("z".to_owned(), "0".to_owned());
    feed.apply(&[node("b", "2"), Update::NodeGone("a".into())], true);
    assert_eq!(names(&feed.look(|look| look.beside(Type::Node.index(), &has))), ["+b", "+c", "-a", "-z"]);
}

#[test]
fn too_many_removals_are_forgotten_and_said_to_be() {
    let feed = Feed::new();
    let all: Vec<Update> = (0..=REMEMBERED).map(|n| node(&n.to_string(), "")).collect();
    feed.apply(&all, true);
    let at = feed.look(|look| look.revision());
    let gone: Vec<Update> = (0..=REMEMBERED).map(|n| Update::NodeGone(n.to_string().into())).collect();
    feed.apply(&gone, true);
    feed.look(|look| {
        assert!(look.since(Type::Node.index(), at).is_err());
        assert_eq!(look.since(Type::Node.index(), at + 1).ok().unwrap().len(), REMEMBERED);
    });
}
