use super::*;
use crate::fixtures::*;
use crate::{PolicyScope, Update};

fn cart() -> Workload {
    but(pod("shop/cart", &["10.1.0.10"]), |it| it.labels = pod_labels(&[("app", "cart")]))
}

fn with(updates: impl IntoIterator<Item = Update>) -> std::sync::Arc<Snapshot> {
    snapshot([up(cart())].into_iter().chain(updates))
}

/// What `shop/cart` answers a caller of this namespace, or one without identity.
#[track_caller]
fn reason(snapshot: &Snapshot, namespace: Option<&str>) -> &'static str {
    let identity = namespace.map(|ns| identity(ns, "default"));
    match snapshot.authorize(&access(identity.as_ref(), &cart())) {
        Ok(_) => "allowed",
        Err(denial) => denial.reason.code(),
    }
}

#[test]
fn without_policy_all_is_allowed() {
    let snapshot = with([]);
    assert_eq!(reason(&snapshot, Some("web")), "allowed");
    assert_eq!(reason(&snapshot, None), "allowed");
}

#[test]
fn one_allow_policy_shuts_all_others_out() {
    let allow = policy("shop/allow-web", Action::Allow, vec![rule(vec![from_namespace("web")])]);
    let snapshot = with([up(allow)]);
    let web = identity("web", "default");
    let permit = snapshot.authorize(&access(Some(&web), &cart())).unwrap();
    assert_eq!(permit.by.unwrap().to_string(), "AuthorizationPolicy shop/allow-web rule 0");
    let other = identity("other", "default");
    let denial = snapshot.authorize(&access(Some(&other), &cart())).unwrap_err();
    assert_eq!(denial.reason, DenialReason::NoAllowMatch);
    assert_eq!(
        denial.to_string(),
        "AuthorizationPolicy shop/allow-web applies and none of its rules allows it"
    );
    assert_eq!(reason(&snapshot, None), "no-allow-match");
}

#[test]
fn an_allow_policy_without_rules_allows_nobody_and_a_deny_policy_without_rules_denies_nobody() {
    assert_eq!(reason(&with([up(policy("shop/p", Action::Allow, vec![]))]), Some("web")), "no-allow-match");
    assert_eq!(reason(&with([up(policy("shop/p", Action::Deny, vec![]))]), Some("web")), "allowed");
}

#[test]
fn deny_wins_over_allow() {
    let allow = policy("shop/a", Action::Allow, vec![rule(vec![])]);
    let deny =
        policy("shop/b", Action::Deny, vec![rule(vec![to_port(1)]), rule(vec![from_namespace("web")])]);
    let snapshot = with([up(allow), up(deny)]);
    let web = identity("web", "default");
    let denial = snapshot.authorize(&access(Some(&web), &cart())).unwrap_err();
    assert_eq!(denial.reason, DenialReason::DenyPolicy);
    assert_eq!(denial.to_string(), "AuthorizationPolicy shop/b rule 1 denies it");
    assert_eq!(reason(&snapshot, Some("other")), "allowed");
}

#[test]
fn scopes_reach_what_they_name() {
    let denying =
        |name: &str, scope| AuthorizationPolicy { scope, ..policy(name, Action::Deny, vec![rule(vec![])]) };
    let selecting = |app| PolicyScope::Selector(labels(&[("app", app)]));
    let serves = |name| PolicyScope::Services(vec![named(name)]);
    let served = [up(service("shop/cart", &[])), up(slice("shop/cart", vec![unready(endpoint(&cart()))]))];
    let with = |policy| with(served.iter().cloned().chain([up(policy)]));
    let mesh_wide = format!("{ROOT}/p");
    for (policy, expected) in [
        (denying(&mesh_wide, PolicyScope::Mesh), "deny-policy"),
        (denying(&mesh_wide, selecting("cart")), "deny-policy"),
        (denying(&mesh_wide, selecting("web")), "allowed"),
        (denying(&mesh_wide, PolicyScope::Namespace), "allowed"),
        (denying("shop/p", PolicyScope::Namespace), "deny-policy"),
        (denying("other/p", PolicyScope::Namespace), "allowed"),
        (denying("shop/p", selecting("cart")), "deny-policy"),
        (denying("shop/p", selecting("web")), "allowed"),
        (denying("other/p", selecting("cart")), "allowed"),
        (denying("shop/p", serves("shop/cart")), "deny-policy"),
        (denying("shop/p", serves("shop/web")), "allowed"),
        // A namespace has no say over the Services of another.
        (denying("other/p", serves("shop/cart")), "allowed"),
        (denying("shop/p", PolicyScope::Elsewhere), "allowed"),
    ] {
        let shown = format!("{policy:?}");
        assert_eq!(reason(&with(policy), Some("web")), expected, "{shown}");
    }
}

#[test]
fn a_policy_of_a_service_holds_before_the_pods_endpoint_is_written() {
    let cart_service = crate::Service { selector: labels(&[("app", "cart")]), ..service("shop/cart", &[]) };
    let scope = PolicyScope::Services(vec![named("shop/cart")]);
    let deny = AuthorizationPolicy { scope, ..policy("shop/p", Action::Deny, vec![rule(vec![])]) };
    assert_eq!(reason(&with([up(cart_service), up(deny)]), Some("web")), "deny-policy");
}

#[test]
fn an_action_not_known_denies_what_it_matches() {
    let unknown = policy("shop/ext", Action::Unknown, vec![rule(vec![from_namespace("web")])]);
    let snapshot = with([up(unknown)]);
    assert_eq!(reason(&snapshot, Some("web")), "unknown-policy");
    assert_eq!(reason(&snapshot, Some("other")), "allowed");
}

#[test]
fn audit_is_written_down_and_decides_nothing() {
    let audit = policy("shop/audit", Action::Audit, vec![rule(vec![from_namespace("web")])]);
    let deny = policy("shop/deny", Action::Deny, vec![rule(vec![])]);
    let web = identity("web", "default");
    let allowed = with([up(audit.clone())]);
    let permit = allowed.authorize(&access(Some(&web), &cart())).unwrap();
    assert_eq!(permit.by, None);
    assert_eq!(permit.audited[0].to_string(), "AuthorizationPolicy shop/audit rule 0");
    let denied = with([up(audit), up(deny)]);
    let denial = denied.authorize(&access(Some(&web), &cart())).unwrap_err();
    assert_eq!(denial.audited, permit.audited);
}

#[test]
fn the_l7_part_makes_allow_stricter_and_deny_broader() {
    let l7 = |clauses| Rule { clauses, l7: true };
    let web = || Clause(vec![from_namespace("web")]);
    let deciding = |action, rule| reason(&with([up(policy("shop/p", action, vec![rule]))]), Some("web"));
    assert_eq!(deciding(Action::Allow, l7(vec![web()])), "no-allow-match");
    assert_eq!(deciding(Action::Deny, l7(vec![web()])), "deny-policy");
    // Nothing else stood in the rule, in a clause, or in one alternative of a clause.
    assert_eq!(deciding(Action::Deny, l7(vec![])), "deny-policy");
    assert_eq!(deciding(Action::Deny, l7(vec![web(), Clause(vec![])])), "deny-policy");
    assert_eq!(deciding(Action::Deny, l7(vec![Clause(vec![to_port(1), Match::default()])])), "deny-policy");
    let elsewhere = Clause(vec![from_namespace("other")]);
    assert_eq!(deciding(Action::Deny, l7(vec![elsewhere, Clause(vec![])])), "allowed");
}

#[test]
fn an_empty_match_never_matches() {
    let empty = Rule { clauses: vec![Clause(vec![Match::default()])], l7: false };
    assert_eq!(
        reason(&with([up(policy("shop/p", Action::Deny, vec![empty.clone()]))]), Some("web")),
        "allowed"
    );
    assert_eq!(
        reason(&with([up(policy("shop/p", Action::Allow, vec![empty]))]), Some("web")),
        "no-allow-match"
    );
}

#[test]
fn each_kind_of_match_means_what_istio_means() {
    let strings = |text: &str| vec![StringMatch::parse_principal(text)];
    let any = Match::default;
    let web = identity("web", "front");
    let holds = |m: Match, identity: Option<&Identity>| {
        let snapshot = with([up(policy("shop/p", Action::Deny, vec![rule(vec![m])]))]);
        snapshot.authorize(&access(identity, &cart())).is_err()
    };
    for (text, expected) in [
        ("cluster.local/ns/web/sa/front", true),
        ("spiffe://cluster.local/ns/web/sa/front", true),
        ("cluster.local/ns/web/*", true),
        ("*/sa/front", true),
        ("*", true),
        ("cluster.local/ns/web/sa/fron", false),
        ("cluster.local/ns/web/sa/frontend", false),
        ("other.domain/*", false),
    ] {
        let m = Match { principals: strings(text), ..any() };
        assert_eq!(holds(m.clone(), Some(&web)), expected, "{text}");
        assert!(!holds(m, None), "{text} matches nobody");
        let not = Match { not_principals: strings(text), ..any() };
        assert_eq!(holds(not.clone(), Some(&web)), !expected, "not {text}");
        assert!(holds(not, None), "who has no identity is not {text}");
    }
    let account = |text: &str| Match { service_accounts: vec![StringMatch::parse(text)], ..any() };
    assert!(holds(account("web/front"), Some(&web)) && holds(account("web/*"), Some(&web)));
    assert!(!holds(account("web/back"), Some(&web)) && !holds(account("web/front"), None));
    let both = Match { destination_ports: vec![8080], ..from_namespace("web") };
    assert!(holds(both.clone(), Some(&web)) && !holds(both, None), "kinds are joined by AND");
    assert!(!holds(Match { destination_ports: vec![80], ..from_namespace("web") }, Some(&web)));
    let source = |net: &str| Match { source_ips: vec![net.parse().unwrap()], ..any() };
    assert!(holds(source("10.1.0.0/24"), None) && !holds(source("10.2.0.0/24"), None));
    let except = Match { not_source_ips: source("10.1.0.99/32").source_ips, ..source("10.1.0.0/24") };
    assert!(!holds(except, None), "an exception inside the network");
    let destination = Match { destination_ips: vec!["10.1.0.10/32".parse().unwrap()], ..any() };
    assert!(holds(destination, None));
    assert!(holds(Match { not_destination_ports: vec![80], ..any() }, None));
}

#[test]
fn a_mapped_source_address_is_an_ipv4_address() {
    let m = Match { source_ips: vec!["10.1.0.0/24".parse().unwrap()], ..Match::default() };
    let snapshot = with([up(policy("shop/p", Action::Deny, vec![rule(vec![m])]))]);
    let cart = cart();
    let access = Access { source: ip("::ffff:10.1.0.99"), ..access(None, &cart) };
    assert!(snapshot.authorize(&access).is_err());
}

#[test]
fn strict_denies_callers_without_identity_and_the_narrowest_scope_says_so() {
    let (strict, permissive) = (Some(MtlsMode::Strict), Some(MtlsMode::Permissive));
    let own = || PolicyScope::Selector(labels(&[("app", "cart")]));
    let mesh_wide = up(mtls(&format!("{ROOT}/default"), PolicyScope::Mesh, strict));
    let snapshot = with([mesh_wide.clone()]);
    assert_eq!(reason(&snapshot, None), "strict-mtls");
    assert_eq!(reason(&snapshot, Some("web")), "allowed");
    let denial = snapshot.authorize(&access(None, &cart())).unwrap_err();
    let expected = "PeerAuthentication aquifer-system/default is STRICT and the caller has no identity";
    assert_eq!(denial.to_string(), expected);

    let of_namespace = up(mtls("shop/default", PolicyScope::Namespace, permissive));
    assert_eq!(reason(&with([mesh_wide.clone(), of_namespace.clone()]), None), "allowed");
    let of_workload = up(mtls("shop/cart", own(), strict));
    assert_eq!(reason(&with([mesh_wide.clone(), of_namespace.clone(), of_workload]), None), "strict-mtls");
    let unset = up(mtls("shop/cart", own(), None));
    assert_eq!(reason(&with([mesh_wide.clone(), of_namespace, unset]), None), "allowed");
    let disabled = up(mtls("shop/default", PolicyScope::Namespace, Some(MtlsMode::Disable)));
    assert_eq!(reason(&with([mesh_wide.clone(), disabled]), None), "allowed");
    let elsewhere = up(mtls("other/default", PolicyScope::Namespace, permissive));
    assert_eq!(reason(&with([mesh_wide, elsewhere]), None), "strict-mtls");
}

#[test]
fn a_port_may_have_a_mode_of_its_own() {
    let own = PolicyScope::Selector(labels(&[("app", "cart")]));
    let mut policy = mtls("shop/cart", own, Some(MtlsMode::Strict));
    policy.ports = vec![(9090, Some(MtlsMode::Permissive)), (9091, None)];
    let snapshot = with([up(policy.clone())]);
    let (cart, name) = (cart(), Some(named("shop/cart")));
    assert_eq!(snapshot.mtls_mode(&cart, 8080), (MtlsMode::Strict, name.clone()));
    assert_eq!(snapshot.mtls_mode(&cart, 9090), (MtlsMode::Permissive, name.clone()));
    assert_eq!(snapshot.mtls_mode(&cart, 9091), (MtlsMode::Strict, name), "unset: as the object says");
    // Without a selector the ports of a PeerAuthentication say nothing.
    let wide = crate::PeerAuthentication { scope: PolicyScope::Namespace, ..policy };
    assert_eq!(with([up(wide)]).mtls_mode(&cart, 9090).0, MtlsMode::Strict);
}

#[test]
fn of_equal_peer_authentications_the_first_by_name_wins() {
    let own = || PolicyScope::Selector(labels(&[("app", "cart")]));
    let (a, b) =
        (mtls("shop/a", own(), Some(MtlsMode::Permissive)), mtls("shop/b", own(), Some(MtlsMode::Strict)));
    let root = mtls(&format!("{ROOT}/a"), own(), Some(MtlsMode::Strict));
    let snapshot = with([up(b), up(a), up(root)]);
    assert_eq!(snapshot.mtls_mode(&cart(), 80), (MtlsMode::Permissive, Some(named("shop/a"))));
    assert_eq!(with([]).mtls_mode(&cart(), 80), (MtlsMode::Permissive, None));
}

#[test]
fn policies_are_listed_in_the_order_they_decide() {
    let of = |name: &str, action| up(policy(name, action, vec![]));
    let everywhere = AuthorizationPolicy {
        scope: PolicyScope::Mesh,
        ..policy(&format!("{ROOT}/z"), Action::Deny, vec![])
    };
    let snapshot = with([
        of("shop/a", Action::Audit),
        of("shop/b", Action::Allow),
        of("shop/c", Action::Unknown),
        of("shop/d", Action::Deny),
        of("other/e", Action::Deny),
        up(everywhere),
    ]);
    let names: Vec<_> = snapshot.policies_for(&cart()).iter().map(|p| p.name.name.to_string()).collect();
    assert_eq!(names, ["z", "d", "c", "b", "a"]);
}
