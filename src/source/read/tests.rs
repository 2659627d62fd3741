use aquifer_model::PolicyScope;

use super::*;
use crate::testing::{contents, said};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.1}\n";

#[test]
fn one_broken_document_leaves_the_others() {
    let text = format!("{POD}---\nkind: Pod\nmetadata: [name: b\n---\n{}", POD.replace("name: a", "name: c"));
    let contents = contents(&text);
    let names: Vec<_> = contents.objects.iter().map(|(key, ..)| key.to_string()).collect();
    assert_eq!(names, ["Pod default/a", "Pod default/c"]);
    assert_eq!(contents.broken.len(), 1);
    let place = contents.broken[0].remark.place;
    assert_eq!(place.document, Some(2));
    assert!(place.line.is_some_and(|line| (6..=9).contains(&line)), "{place:?}");
    assert!(contents.broken[0].stand_in.is_none());
}

#[test]
fn other_kinds_are_left_aside_and_counted() {
    let other = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n";
    let linkerd =
        "---\napiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: x}\n";
    let contents = contents(&format!("{other}{other}{linkerd}"));
    assert!(contents.objects.is_empty() && contents.broken.is_empty());
    let counts: Vec<_> =
        contents.ignored.iter().map(|(kind, (count, place))| (kind.as_str(), *count, place.line)).collect();
    assert_eq!(
        counts,
        [
            ("AuthorizationPolicy (policy.linkerd.io/v1alpha1)", 1, Some(10)),
            ("Deployment (apps/v1)", 2, Some(2))
        ]
    );
}

#[test]
fn what_is_no_object_is_named() {
    for (text, expected) in [
        ("just text", "1:1:1 - Error: this is no Kubernetes object"),
        ("[1, 2]", "1:1:1 - Error: this is no Kubernetes object"),
        ("kind: Pod\n", "1:1:1 - Error: the object has no apiVersion"),
        ("---\n# one\n---\napiVersion: v1\n", "1:4:1 - Error: the object has no kind"),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n- 7\n",
            "1:4:3 items[0].metadata.name Error: the object has no name",
        ),
        ("apiVersion: v1\nkind: List\nitems: {}\n", "1:3:8 items Error: this is no list"),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n  status: {podIP: x}\n",
            "1:7:19 items[0].status.podIP Error: \"x\" is no IP address",
        ),
    ] {
        let said = said(text);
        assert!(said[0].starts_with(expected), "\n{}\n{expected}", said[0]);
    }
    let contents = read(b"a: 1\nb: \xff\n", &TranslateConfig::default());
    assert_eq!(contents.broken[0].remark.place.line, Some(2));
    assert!(contents.broken[0].remark.message.contains("not UTF-8"));
}

#[test]
fn a_policy_that_is_not_even_yaml_closes_the_door_it_was_for() {
    let scope = |text: &str| {
        let mut contents = contents(text);
        let (key, object) = contents.broken.remove(0).stand_in?;
        let Object::AuthorizationPolicy(policy) = object else { panic!("{object:?}") };
        Some((key.to_string(), policy.scope.clone()))
    };
    let policy = |metadata: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n{metadata}spec:\n  rules: [\n"
        )
    };
    let found = scope(&policy("  name: web\n  namespace: shop\n")).unwrap();
    assert_eq!(found, ("AuthorizationPolicy shop/web".to_owned(), PolicyScope::Namespace));
    let found = scope(&policy("  name: web\n")).unwrap();
    assert_eq!(found, ("AuthorizationPolicy default/web".to_owned(), PolicyScope::Namespace));
    let found = scope(&policy("  name: web\n  namespace shop\n")).unwrap();
    assert_eq!(found, ("AuthorizationPolicy aquifer-system/web".to_owned(), PolicyScope::Mesh));
    let found = scope(&policy("  {name\n  namespace: shop\n")).unwrap();
    assert_eq!(found, ("AuthorizationPolicy shop/unreadable@1.0".to_owned(), PolicyScope::Namespace));
    assert_eq!(scope("kind: Pod\nmetadata: [\n"), None);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever the bytes are, reading them ends and says so.
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        crate::fuzz_yaml(&bytes);
    }

    /// The same of texts that come close: a good file with a piece cut out or another put in.
    #[test]
    fn any_damaged_file_is_read(at in 0_usize..1_200, cut in 0_usize..40, piece in "[-a-z:{}\\[\\]*&!|>'\" \n\t0-9#,]{0,12}") {
        let good = include_str!("example.yaml");
        let floor = |index: usize| (0..=index.min(good.len())).rev().find(|i| good.is_char_boundary(*i)).unwrap();
        let (start, end) = (floor(at), floor(at + cut));
        let text = format!("{}{piece}{}", &good[..start], &good[end..]);
        let (taken, broken) = crate::fuzz_yaml(text.as_bytes());
        proptest::prop_assert!(taken + broken > 0);
    }
}
