use aquifer_model::{Mesh, MeshConfig};

use super::*;
use crate::read::Contents;
use crate::testing::contents;
use crate::{Kind, Objects, World, translate};

const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {aquifer.dev/mesh: ambient}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, uid: a, labels: {app: web}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1, phase: Running}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop, uid: b, labels: {app: web}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.2, phase: Running}}
---
{apiVersion: v1, kind: Pod, metadata: {name: out, namespace: shop, uid: c, labels: {app: out, aquifer.dev/mesh: none}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.3, phase: Running}}
---
";

fn authorization(spec: &str) -> String {
    format!(
        "{{apiVersion: aquifer.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    )
}

fn peer(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: aquifer.dev/v1alpha1, kind: PeerAuthentication, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n---\n"
    )
}

/// What becomes of the policy of a name, taken as written.
fn judged(yaml: &str, name: &str) -> Vec<Verdict> {
    let Contents { objects: read, broken, remarks, .. } = contents(&format!("{SHOP}{yaml}"));
    assert!(broken.is_empty(), "{broken:?}");
    let mut objects = Objects::default();
    for (key, object, _) in read {
        objects.insert(key, object);
    }
    let root: std::sync::Arc<str> = crate::TranslateConfig::default().root_namespace;
    let mut mesh = Mesh::new(MeshConfig { root_namespace: root.clone(), networks: None });
    mesh.apply(World::default().diff(&translate(&objects)));
    let mesh = mesh.snapshot();
    let problems = remarks.into_iter().map(|remark| Problem {
        file: name.into(),
        document: None,
        line: None,
        column: None,
        field: remark.field,
        severity: remark.severity,
        message: remark.message,
    });
    let standing = Standing {
        written: crate::Written::default(),
        taken: Taken::AsWritten,
        problems: problems.collect(),
    };
    let (key, object) = objects.iter().find(|(key, _)| key.kind.is_policy() && *key.name == *name).unwrap();
    Ground::new(&mesh, &root).judge(key, Policy::of(object).unwrap(), Some(&standing))
}

fn enforced(yaml: &str, name: &str) -> Verdict {
    judged(yaml, name).into_iter().find(|verdict| verdict.condition == ENFORCED).unwrap()
}

#[test]
fn a_policy_of_layer_4_is_enforced_at_the_pods_of_the_mesh() {
    let all = judged(&authorization("{selector: {matchLabels: {app: web}}, rules: [{}]}"), "p");
    assert!(all.iter().all(|verdict| verdict.holds), "{all:?}");
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].found, "is enforced at 2 pods that the mesh has by their labels");
}

#[test]
fn what_selects_nothing_or_nobody_enforces_says_so() {
    for (spec, reason, words) in [
        (
            "{selector: {matchLabels: {app: webb}}}",
            reason::SELECTS_NOTHING,
            "no pod has app=webb; pods here have app=out, app=web",
        ),
        (
            "{selector: {matchLabels: {app: out}}}",
            reason::SELECTS_NOTHING,
            "1 pod, of which none is in the mesh, by a label of its own",
        ),
        ("{targetRefs: [{kind: Service, name: no}]}", reason::TARGET_NOT_FOUND, "Service shop/no"),
        (
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]}",
            reason::NEEDS_WAYPOINT,
            "a Gateway",
        ),
        (
            "{rules: [{}]}",
            reason::PODS_OPTED_OUT,
            "at 2 pods that the mesh has by their labels, and 1 pod that it selects is outside the mesh by a label of its own, where nobody enforces it: shop/out",
        ),
        (
            "{action: CUSTOM, selector: {matchLabels: {app: web}}, rules: [{}]}",
            reason::NOT_SUPPORTED,
            "denied",
        ),
    ] {
        let verdict = enforced(&authorization(spec), "p");
        assert_eq!((verdict.holds, verdict.reason), (false, reason), "{spec}: {verdict:?}");
        assert!(verdict.found.contains(words), "{spec}: {verdict:?}");
        let mend = verdict.mend.as_deref();
        assert_eq!(parts(&verdict.message()), (verdict.found.as_str(), mend));
        assert!(mend.is_some());
    }
}

#[test]
fn fields_that_only_http_shows_are_named_with_what_happens_instead() {
    let spec = |action: &str| {
        authorization(&format!(
            "{{action: {action}, selector: {{matchLabels: {{app: web}}}}, rules: [{{to: [{{operation: {{methods: [GET], ports: ['80']}}}}], when: [{{key: 'request.headers[x]', values: [y]}}]}}]}}"
        ))
    };
    for (action, effect) in [("DENY", "denies without looking at that"), ("ALLOW", "never allows")] {
        let verdict = enforced(&spec(action), "p");
        assert_eq!((verdict.holds, verdict.reason), (false, reason::NEEDS_WAYPOINT));
        assert_eq!(judged(&spec(action), "p")[0].found, "is taken as written");
        let words = ["spec.rules[0]", "methods, request.headers[x]", effect, "2 pods"];
        assert!(words.iter().all(|word| verdict.found.contains(word)), "{verdict:?}");
    }
}

#[test]
fn of_two_with_one_scope_the_first_by_name_decides_and_both_say_so() {
    let select = "selector: {matchLabels: {app: web}}";
    let two = [
        peer("a", "shop", &format!("{{{select}, mtls: {{mode: STRICT}}}}")),
        peer("b", "shop", &format!("{{{select}, mtls: {{mode: PERMISSIVE}}}}")),
    ]
    .concat();
    let (first, second) = (judged(&two, "a"), judged(&two, "b"));
    assert!(first[1].holds, "{first:?}");
    assert_eq!((second[1].holds, second[1].reason), (false, reason::OVERRIDDEN), "{second:?}");
    assert!(first[2].found.ends_with("it decides where they overlap"), "{first:?}");
    assert!(second[2].found.ends_with("shop/a decides where they overlap"), "{second:?}");
    assert!(first[2].holds && second[2].holds && second[2].condition == CONFLICTED);
}

#[test]
fn a_narrower_one_is_no_conflict_but_told() {
    let yaml = [
        peer(
            "narrow",
            "shop",
            "{selector: {matchLabels: {app: web}}, portLevelMtls: {8080: {mode: DISABLE}}}",
        ),
        peer("wide", "shop", "{mtls: {mode: STRICT}}"),
        peer("elsewhere", "other", "{mtls: {mode: STRICT}}"),
    ]
    .concat();
    let wide = judged(&yaml, "wide");
    assert_eq!(wide.len(), 2, "{wide:?}");
    assert!(!wide[1].holds && wide[1].found.contains("PeerAuthentication shop/narrow"), "{wide:?}");
    let narrow = enforced(&yaml, "narrow");
    assert!(narrow.holds && narrow.found.contains("DISABLE lets plaintext in"), "{narrow:?}");
    assert_eq!(enforced(&yaml, "elsewhere").reason, reason::SELECTS_NOTHING);
}

#[test]
fn what_cannot_be_read_says_what_is_enforced_instead() {
    let problem = |consequence: &str| Problem {
        file: "x".into(),
        document: None,
        line: None,
        column: None,
        field: Some("spec.action".to_owned()),
        severity: Severity::Error,
        message: format!("\"NO\" is no action; {consequence}"),
    };
    let standing = |taken, consequence: &str| Standing {
        written: crate::Written::default(),
        taken,
        problems: vec![problem(consequence)],
    };
    let mesh = Mesh::new(MeshConfig { root_namespace: "root".into(), networks: None }).snapshot();
    let key = Key::new(Kind::AuthorizationPolicy, &"shop".into(), &"p".into());
    let name = NamespacedName::new("shop", "p");
    let policy = AuthorizationPolicy {
        name,
        scope: PolicyScope::Namespace,
        action: Action::Unknown,
        rules: Vec::new(),
    };
    let judge = |standing: &Standing| {
        Ground::new(&mesh, "root").judge(&key, Policy::Authorization(&policy), Some(standing))
    };
    let kept = judge(&standing(Taken::LastGood, "its last good version stays in use"));
    assert!(!kept[0].holds && kept[0].reason == reason::INVALID);
    assert!(
        kept[0].found.starts_with(
            "cannot be taken as written: spec.action: \"NO\" is no action; its last good version"
        ),
        "{kept:?}"
    );
    assert!(kept[1].found.contains("is enforced in its last good version, at 0 pods"), "{kept:?}");
    let denies = judge(&standing(Taken::StandIn, "it denies"));
    assert!(!denies[1].holds && denies[1].found.contains("denies all calls"), "{denies:?}");
    assert!(!denies[0].found.contains("an earlier version"), "{denies:?}");
    let mut edited = standing(Taken::StandIn, "it denies");
    edited.written.generation = 2;
    assert!(judge(&edited)[0].found.contains("an earlier version"), "another replica may know more");
}

#[test]
fn messages_are_bounded_and_keep_their_mend() {
    let verdict = Verdict::new(ENFORCED, false, reason::INVALID, "ä".repeat(LONGEST)).mend("do so");
    let message = verdict.message();
    assert!(message.len() <= LONGEST, "{}", message.len());
    assert_eq!(parts(&message).1, Some("do so"));
}
