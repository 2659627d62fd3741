use aquifer_model::{NamespacedName, StringMatch};

use super::*;
use crate::testing::{contents, said, world};

fn yaml(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn policy(spec: &str) -> AuthorizationPolicy {
    world(&yaml("shop", spec)).policy("shop/p").clone()
}

fn rule(rule: &str) -> Rule {
    policy(&format!("{{rules: [{rule}]}}")).rules.remove(0)
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

#[test]
fn every_l4_field_has_its_place() {
    let found = rule(
        "{from: [{source: {principals: [spiffe://td/ns/a/sa/b, '*'], notPrincipals: ['td/ns/x/*'], namespaces: ['*-prod'], notNamespaces: [dev],
          serviceAccounts: [cart, other/web], notServiceAccounts: [bad], ipBlocks: [10.1.2.3/8, 1.2.3.4], notIpBlocks: ['fd00::/8', '::ffff:10.0.0.0/104']}},
          {source: {namespaces: [b]}}],
          to: [{operation: {ports: ['80', '443'], notPorts: ['22']}}]}",
    );
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    let first = Match {
        principals: vec![exact("td/ns/a/sa/b"), StringMatch::Present],
        not_principals: vec![StringMatch::Prefix("td/ns/x/".into())],
        namespaces: vec![StringMatch::Suffix("-prod".into())],
        not_namespaces: vec![exact("dev")],
        service_accounts: vec![exact("shop/cart"), exact("other/web")],
        not_service_accounts: vec![exact("shop/bad")],
        source_ips: nets(&["10.0.0.0/8", "1.2.3.4/32"]),
        not_source_ips: nets(&["fd00::/8", "10.0.0.0/8"]),
        ..Match::default()
    };
    let second = Match { namespaces: vec![exact("b")], ..Match::default() };
    let to = Match { destination_ports: vec![80, 443], not_destination_ports: vec![22], ..Match::default() };
    assert_eq!(found, Rule { clauses: vec![Clause(vec![first, second]), Clause(vec![to])], l7: false });
}

#[test]
fn conditions_are_a_clause_each() {
    let found = rule(
        "{when: [{key: source.ip, values: [10.0.0.1]}, {key: source.namespace, notValues: [a]},
          {key: source.principal, values: ['spiffe://*']}, {key: source.serviceAccount, values: [x]},
          {key: destination.ip, values: [10.0.0.0/8], notValues: [10.0.0.1]}, {key: destination.port, values: ['80']}]}",
    );
    let each = |m: Match| Clause(vec![m]);
    let net = |text: &str| vec![text.parse().unwrap()];
    let none = Match::default;
    assert_eq!(
        found.clauses,
        [
            each(Match { source_ips: net("10.0.0.1/32"), ..none() }),
            each(Match { not_namespaces: vec![exact("a")], ..none() }),
            each(Match { principals: vec![StringMatch::Present], ..none() }),
            each(Match { service_accounts: vec![exact("shop/x")], ..none() }),
            each(Match {
                destination_ips: net("10.0.0.0/8"),
                not_destination_ips: net("10.0.0.1/32"),
                ..none()
            }),
            each(Match { destination_ports: vec![80], ..none() }),
        ]
    );
    assert!(!found.l7);
}

#[test]
fn what_only_http_shows_marks_the_rule_and_leaves_the_rest() {
    let from_a = Clause(vec![Match { namespaces: vec![exact("a")], ..Match::default() }]);
    for (text, clauses) in [
        ("{to: [{operation: {methods: [GET]}}]}", vec![]),
        ("{to: [{operation: {notPaths: [/x]}}], from: [{source: {namespaces: [a]}}]}", vec![from_a.clone()]),
        ("{from: [{source: {namespaces: [a], requestPrincipals: ['*']}}]}", vec![from_a.clone()]),
        // One alternative of which nothing is left matches any call, and with it the clause.
        ("{from: [{source: {namespaces: [a]}}, {source: {notRequestPrincipals: [x]}}]}", vec![]),
        ("{from: [{source: {remoteIpBlocks: [1.2.3.4]}}]}", vec![]),
        (
            "{when: [{key: 'request.headers[x]', values: [y]}, {key: source.namespace, values: [a]}]}",
            vec![from_a.clone()],
        ),
        ("{when: [{key: remote.ip, values: [1.2.3.4]}]}", vec![]),
        ("{when: [{key: connection.sni, values: [x]}]}", vec![]),
        ("{when: [{key: request.auth.claims, values: [x]}]}", vec![]),
    ] {
        assert_eq!(rule(text), Rule { clauses, l7: true }, "{text}");
        assert!(said(&yaml("shop", &format!("{{rules: [{text}]}}")))[0].contains("never allows"));
        assert!(
            said(&yaml("shop", &format!("{{action: DENY, rules: [{text}]}}")))[0]
                .contains("denies without looking")
        );
    }
}

#[test]
fn the_empty_forms_mean_what_istio_means() {
    assert!(policy("{}").rules.is_empty());
    assert_eq!(policy("{rules: [{}]}").rules, [Rule { clauses: vec![], l7: false }]);
    assert_eq!(policy("{}").action, Action::Allow);
}

#[test]
fn a_policy_is_about_what_it_selects() {
    let scope = |namespace: &str, spec: &str| world(&yaml(namespace, spec)).policies[0].scope.clone();
    let labels = PolicyScope::Selector([("app".into(), "web".into())].into());
    let service = |name: &str| NamespacedName::new("shop", name);
    for (namespace, spec, expected) in [
        ("shop", "{}", PolicyScope::Namespace),
        ("aquifer-system", "{}", PolicyScope::Mesh),
        ("shop", "{selector: {matchLabels: {app: web}}}", labels.clone()),
        ("aquifer-system", "{selector: {matchLabels: {app: web}}}", labels),
        ("shop", "{selector: {}}", PolicyScope::Namespace),
        ("shop", "{targetRef: {kind: Service, name: web}}", PolicyScope::Services(vec![service("web")])),
        (
            "shop",
            "{targetRefs: [{group: '', kind: Service, name: b}, {kind: Service, group: core, name: a}]}",
            PolicyScope::Services(vec![service("a"), service("b")]),
        ),
        (
            "shop",
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: w}]}",
            PolicyScope::Elsewhere,
        ),
        (
            "shop",
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: w}, {kind: Service, name: a}]}",
            PolicyScope::Services(vec![service("a")]),
        ),
    ] {
        assert_eq!(scope(namespace, spec), expected, "{namespace} {spec}");
    }
}

/// What is wrong, golden; and that until it is mended, the policy denies.
#[test]
fn what_cannot_be_taken_as_written_denies() {
    for (spec, expected) in [
        (
            "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, 10.0.0.0/99]}}]}]}",
            "1:4:57 spec.rules[0].from[0].source.ipBlocks[1] Error: \"10.0.0.0/99\" is no IP address and no CIDR such as 10.0.0.0/8",
        ),
        (
            "{rules: [{to: [{operation: {ports: ['http']}}]}]}",
            "1:4:43 spec.rules[0].to[0].operation.ports[0] Error: \"http\" is no port: ports are 1 to 65535",
        ),
        (
            "{rules: [{to: [{operation: {ports: [80]}}]}]}",
            "1:4:43 spec.rules[0].to[0].operation.ports[0] Error: expected a text, found 80; put it in quotes",
        ),
        (
            "{rules: [{to: [{operation: {ports: ['0']}}]}]}",
            "1:4:43 spec.rules[0].to[0].operation.ports[0] Error: \"0\" is no port",
        ),
        (
            "{rules: [{from: [{source: {principles: [x]}}]}]}",
            "1:4:46 spec.rules[0].from[0].source.principles Error: unknown field `principles`, expected one of `principals`",
        ),
        ("{rulez: []}", "1:4:15 spec.rulez Error: unknown field `rulez`"),
        ("{rules: [{from: []}]}", "1:4:23 spec.rules[0].from Error: the list is empty"),
        (
            "{rules: [{from: [{source: {}}]}]}",
            "1:4:33 spec.rules[0].from[0].source Error: nothing stands in it",
        ),
        (
            "{rules: [{from: [{source: {principals: ['a*b']}}]}]}",
            "1:4:47 spec.rules[0].from[0].source.principals[0] Error: \"a*b\" has a *",
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: ['a/*']}}]}]}",
            "1:4:52 spec.rules[0].from[0].source.serviceAccounts[0] Error: \"a/*\" is neither",
        ),
        (
            "{rules: [{when: [{key: source.port, values: ['1']}]}]}",
            "1:4:30 spec.rules[0].when[0].key Error: \"source.port\" is no attribute",
        ),
        ("{rules: [{when: [{key: source.ip}]}]}", "1:4:24 spec.rules[0].when[0] Error: nothing stands in it"),
        ("{action: FORBID}", "1:4:16 spec.action Error: \"FORBID\" is no action"),
        (
            "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: x}]}",
            "1:4:18 spec.selector Error: selector and targetRefs do not go together",
        ),
        (
            "{targetRefs: [{kind: Service, name: x, namespace: other}]}",
            "1:4:57 spec.targetRefs[0].namespace Error: a policy is about objects of its own namespace",
        ),
        (
            "{targetRefs: [{kind: Deployment, group: apps, name: x}]}",
            "1:4:28 spec.targetRefs[0].kind Error: Deployment of group \"apps\" is no target",
        ),
    ] {
        let text = yaml("shop", spec);
        let said = said(&text);
        assert!(said[0].starts_with(expected), "\n{}\n{expected}", said[0]);
        let mut contents = contents(&text);
        let (key, object) = contents.broken.remove(0).stand_in.unwrap();
        assert_eq!(key.to_string(), "AuthorizationPolicy shop/p");
        let crate::Object::AuthorizationPolicy(policy) = object else { panic!("{object:?}") };
        assert_eq!(policy.action, Action::Unknown);
        assert_eq!(policy.rules, [Rule { clauses: vec![], l7: false }]);
    }
}

#[test]
fn a_broken_policy_denies_no_more_than_it_is_about_where_that_is_readable() {
    let stand_in = |spec: &str| {
        let (_, object) = contents(&yaml("shop", spec)).broken.remove(0).stand_in.unwrap();
        let crate::Object::AuthorizationPolicy(policy) = object else { panic!("{object:?}") };
        policy.scope.clone()
    };
    let web = PolicyScope::Selector([("app".into(), "web".into())].into());
    assert_eq!(stand_in("{selector: {matchLabels: {app: web}}, rulez: []}"), web);
    assert_eq!(stand_in("{selector: {matchLabel: {app: web}}}"), PolicyScope::Namespace);
    let service = PolicyScope::Services(vec![NamespacedName::new("shop", "s")]);
    assert_eq!(stand_in("{targetRefs: [{kind: Service, name: s}], action: X}"), service);
}

#[test]
fn custom_is_told_and_denies_what_it_matches() {
    let spec = "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {ports: ['80']}}]}]}";
    let found = policy(spec);
    assert_eq!((found.action, found.rules.len(), found.rules[0].clauses.len()), (Action::Unknown, 1, 1));
    assert!(said(&yaml("shop", spec))[0].contains("spec.action Warning: CUSTOM asks an external authorizer"));
}

#[test]
fn a_principal_that_nobody_can_have_is_told() {
    let spec = "{rules: [{from: [{source: {principals: [ns/a/sa/b]}}]}]}";
    assert!(
        said(&yaml("shop", spec))[0].contains("principals[0] Warning: \"ns/a/sa/b\" is nobody's identity")
    );
}

#[test]
fn policies_of_both_groups_with_one_name_both_hold() {
    let ours =
        yaml("shop", "{action: DENY, rules: [{}]}").replace("security.istio.io/v1", "aquifer.dev/v1alpha1");
    let world = world(&format!("{ours}---\n{}", yaml("shop", "{rules: [{}]}")));
    assert_eq!(world.policy("shop/p").action, Action::Deny);
    assert_eq!(world.policy("shop/p@security.istio.io").action, Action::Allow);
}

#[test]
fn a_version_of_tomorrow_denies() {
    let text = yaml("shop", "{rules: [{}]}").replace("istio.io/v1", "istio.io/v2");
    let mut contents = contents(&text);
    assert!(contents.objects.is_empty());
    assert!(contents.broken.remove(0).stand_in.is_some());
}

fn peer(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: aquifer.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

#[test]
fn peer_authentications_have_modes() {
    let found = world(&peer(
        "shop",
        "{selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, 90: {mode: UNSET}}}",
    ));
    let found = found.peer("shop/p");
    assert_eq!(found.mode, Some(MtlsMode::Strict));
    assert_eq!(found.ports, [(90, None), (8080, Some(MtlsMode::Disable))]);
    let found = world(&peer("aquifer-system", "{mtls: {mode: PERMISSIVE}}"));
    assert_eq!(found.peers[0].scope, PolicyScope::Mesh);
    assert_eq!(found.peers[0].mode, Some(MtlsMode::Permissive));
    assert_eq!(world(&peer("shop", "{}")).peers[0].mode, None);
}

#[test]
fn an_unreadable_peer_authentication_is_strict() {
    for (spec, expected) in [
        ("{mtls: {mode: STRICKT}}", "1:4:21 spec.mtls.mode Error: \"STRICKT\" is no mode"),
        ("{mtls: {mod: STRICT}}", "1:4:20 spec.mtls.mod Error: unknown field `mod`"),
        (
            "{portLevelMtls: {80: {mode: STRICT}}}",
            "1:4:23 spec.portLevelMtls Error: modes of single ports need a selector",
        ),
        (
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
            "1:4:63 spec.portLevelMtls.http Error: \"http\" is no port",
        ),
    ] {
        let text = peer("shop", spec);
        let said = said(&text);
        assert!(said[0].starts_with(expected), "\n{}\n{expected}", said[0]);
        let (_, object) = contents(&text).broken.remove(0).stand_in.unwrap();
        let crate::Object::PeerAuthentication(peer) = object else { panic!("{object:?}") };
        assert_eq!(peer.mode, Some(MtlsMode::Strict));
    }
}
