use std::fs;

use super::*;

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {aquifer.dev/mesh: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.1.0.0/24}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDR: 10.2.0.0/24}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: n1, serviceAccountName: client}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec:
  nodeName: n1
  serviceAccountName: web
  containers: [{name: app, image: none, ports: [{name: http, containerPort: 8080}]}]
status: {podIP: 10.1.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, namespace: shop, labels: {app: web, closed: "yes"}}
spec: {nodeName: n2, serviceAccountName: web}
status: {podIP: 10.2.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: legacy, labels: {app: old}}
spec: {nodeName: n2, serviceAccountName: old}
status: {podIP: 10.2.0.9}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: shop}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec:
  clusterIP: 10.96.0.2
  selector: {app: nobody}
  ports: [{port: 80}, {name: other, port: 81}]
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: shop}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules:
  - from: [{source: {namespaces: [elsewhere]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]
---
apiVersion: aquifer.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: idle, namespace: legacy}
spec: {action: DENY, rules: [{}]}
"#;

const STRICT: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: closed, namespace: shop}
spec:
  selector: {matchLabels: {closed: "yes"}}
  mtls: {mode: STRICT}
"#;

/// The answer to a question about the shop, with further files.
fn ask(files: &[&str], from: &str, to: &str) -> anyhow::Result<Explanation> {
    let dir = tempfile::tempdir()?;
    for (index, yaml) in std::iter::once(&SHOP).chain(files).enumerate() {
        fs::write(dir.path().join(format!("{index}.yaml")), yaml)?;
    }
    explain(dir.path(), &MeshNames::default(), from, to)
}

fn paths(explanation: &Explanation) -> Vec<(String, PathKind, bool)> {
    let mut paths: Vec<_> = explanation
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.address.to_string(), endpoint.path, endpoint.verdict.allowed))
        .collect();
    paths.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    paths
}

#[test]
fn a_service_is_followed_to_each_endpoint() {
    for to in [
        "svc/shop/web",
        "svc/shop/web:80",
        "web",
        "web.shop",
        "web.shop.svc.cluster.local:80",
        "10.96.0.1:80",
    ] {
        let explanation = ask(&[], "shop/client", to).unwrap();
        assert_eq!(
            paths(&explanation),
            [
                ("10.1.0.3:8080".to_owned(), PathKind::SameNode, true),
                ("10.2.0.2:8080".to_owned(), PathKind::Tunnel, true)
            ],
            "{to}"
        );
        assert_eq!(explanation.outcome, Outcome::Allowed);
        let by = explanation.verdicts().next().unwrap().by.clone();
        assert_eq!(by.as_deref(), Some("AuthorizationPolicy shop/web rule 1"));
    }
}

#[test]
fn who_denies_is_named() {
    let explanation = ask(&[], "shop/web-1", "shop/web-2:8080").unwrap();
    assert_eq!(explanation.outcome.code(), 1);
    let text = explanation.to_string();
    for said in [
        "tunnel:",
        "AuthorizationPolicy shop/web applies and none of its rules allows it (no-allow-match)",
        "DENIED",
    ] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
}

#[test]
fn strict_mutual_tls_denies_who_has_no_identity() {
    let open = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: all, namespace: shop}\nspec: {rules: [{}]}\n";
    let explanation = ask(&[STRICT, open], "legacy/old", "svc/shop/web").unwrap();
    assert_eq!(
        paths(&explanation),
        [
            ("10.1.0.3:8080".to_owned(), PathKind::Plaintext, true),
            ("10.2.0.2:8080".to_owned(), PathKind::Plaintext, false)
        ]
    );
    assert_eq!((explanation.outcome, explanation.outcome.code()), (Outcome::Mixed, 1));
    let json = serde_json::to_value(&explanation).unwrap();
    assert!(json["caller"]["identity"].is_null(), "who is outside the mesh proves nothing");
    let text = explanation.to_string();
    assert!(text.contains("no identity, node n2, 10.2.0.9"), "{text}");
    assert!(
        text.contains("STRICT, callers without identity are denied; so says PeerAuthentication shop/closed"),
        "{text}"
    );
    assert!(
        text.contains("neither it nor namespace legacy has the label aquifer.dev/mesh=ambient"),
        "{text}"
    );
}

#[test]
fn a_policy_that_nobody_enforces_is_said() {
    let explanation = ask(&[], "shop/client", "legacy/old:80").unwrap();
    assert_eq!(paths(&explanation), [("10.2.0.9:80".to_owned(), PathKind::Plaintext, true)]);
    assert!(explanation.to_string().contains("nobody enforces them"), "{explanation}");
}

#[test]
fn a_headless_service_is_the_addresses_of_its_pods() {
    let explanation = ask(&[], "shop/client", "peers").unwrap();
    assert_eq!(paths(&explanation).len(), 2);
    assert!(explanation.to_string().contains("headless: DNS tells 2 addresses"), "{explanation}");
}

#[test]
fn what_leaves_the_mesh_and_what_leads_nowhere() {
    for (to, code, outcome) in [
        ("192.0.2.1:443", "outside-mesh", Outcome::Allowed),
        ("elsewhere:80", "unresolved-service", Outcome::Allowed),
        ("10.1.0.77:80", "unknown-destination", Outcome::Unresolved),
        ("svc/shop/nobody:80", "no-endpoint", Outcome::Unresolved),
        ("svc/shop/web:81", "no-such-port", Outcome::Unresolved),
        ("shop/web-1:15008", "proxy-port", Outcome::Unresolved),
    ] {
        let explanation = ask(&[], "shop/client", to).unwrap();
        assert_eq!((explanation.resolution.code, explanation.outcome), (code, outcome), "{to}");
        assert_eq!(explanation.outcome.code(), if outcome == Outcome::Allowed { 0 } else { 2 });
    }
}

#[test]
fn a_port_is_known_where_there_is_one() {
    assert_eq!(ask(&[], "shop/client", "shop/web-1").unwrap().called.addresses[0].port(), 8080);
    for unclear in ["svc/shop/nobody", "shop/web-2", "192.0.2.1"] {
        let error = ask(&[], "shop/client", unclear).unwrap_err().to_string();
        assert!(error.contains("say"), "{unclear}: {error}");
    }
}

#[test]
fn callers_can_be_addresses_and_services() {
    assert_eq!(ask(&[], "10.1.0.2", "svc/shop/web").unwrap().outcome, Outcome::Allowed);
    assert_eq!(ask(&[], "svc/shop/web", "shop/web-2:8080").unwrap().caller.name, "shop/web-1");
    let stranger = ask(&[], "192.0.2.1", "shop/web-2:8080").unwrap();
    assert_eq!((stranger.outcome, stranger.endpoints[0].path), (Outcome::Denied, PathKind::Plaintext));
}

#[test]
fn questions_that_cannot_be_read() {
    for (from, to) in [
        ("shop/client:80", "shop/web-1"),
        ("shop/gone", "shop/web-1"),
        ("shop/client", "svc/shop/gone"),
        ("shop/client", "example.com:80"),
        ("shop/client", "shop/web-1:http"),
        ("shop/client", "shop/web-1:0"),
        ("shop/client", "a/b/c"),
        ("shop/client", "/web"),
        ("", "shop/web-1"),
    ] {
        assert!(ask(&[], from, to).is_err(), "{from} to {to} was understood");
    }
    assert!(explain(Path::new("/nonexistent"), &MeshNames::default(), "a/b", "c/d").is_err());
}

#[test]
fn a_broken_file_is_told_with_the_answer() {
    let explanation = ask(&["kind: [\n"], "shop/client", "shop/web-1").unwrap();
    assert_eq!(explanation.problems.len(), 1, "{:?}", explanation.problems);
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!((&json["outcome"], &json["endpoints"][0]["path"]), (&"allowed".into(), &"same-node".into()));
}
