//! Any policies against any connection: never a panic, and the decision over all of them follows from the decisions of each.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aquifer_model::{
    Access, Action, AuthorizationPolicy, Clause, Denial, DenialReason, Identity, Match, Membership, Mesh,
    MeshConfig, MtlsMode, NamespacedName, PeerAuthentication, Permit, PodUid, PolicyKind, PolicyScope, Rule,
    Snapshot, StringMatch, TrustDomain, Update, Workload, WorkloadFacts, WorkloadName,
};
use ipnet::IpNet;

use super::draw::Draw;

const ROOT: &str = "root";
/// Few names, so that policies and connections often meet.
const NAMES: [&str; 5] = ["shop", "web", "client", "default", ROOT];
/// As principals and their parts are written in policies, wild cards and the scheme included.
const TEXTS: [&str; 10] = [
    "*",
    "",
    "shop",
    "web*",
    "*web",
    "shop/web",
    "spiffe://td/ns/shop/sa/web",
    "td/ns/shop/*",
    "*/sa/web",
    "**",
];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "192.168.7.7", "fd00::1", "::ffff:10.0.0.1"];
const NETWORKS: [&str; 6] = ["10.0.0.0/24", "10.0.0.1/32", "0.0.0.0/0", "fd00::/8", "::/0", "192.168.7.7/32"];
const PORTS: [u16; 5] = [80, 8080, 443, 0, u16::MAX];

/// Draws a pod, policies and a connection, and compares.
pub(super) fn run(bytes: &[u8]) {
    let mut draw = Draw::new(bytes);
    let pod = Arc::new(workload(&mut draw));
    let policies = policies(&mut draw);
    let modes = peer_authentications(&mut draw);
    let identity = (!draw.one_in(3)).then(|| identity(&mut draw)).flatten();
    let address = SocketAddr::new(address(&mut draw), draw.one_of(&PORTS));
    let access =
        Access { identity: identity.as_ref(), source: self::address(&mut draw), destination: &pod, address };

    let ask = |policies: &[Arc<AuthorizationPolicy>]| snapshot(&pod, policies, &modes).authorize(&access);
    let decision = ask(&policies);
    let alone: Vec<_> = policies
        .iter()
        // What PeerAuthentication alone says is taken out: it is asked for once, below.
        .map(|policy| (policy, snapshot(&pod, std::slice::from_ref(policy), &[]).authorize(&access)))
        .collect();
    let strict = ask(&[]).is_err();
    assert_eq!(
        reason(&decision),
        expected(strict, &alone),
        "of {policies:#?} and {modes:#?} for {access:#?}"
    );
    named(&decision, &alone);

    // What only writes down decides nothing.
    let silent: Vec<_> = policies.iter().filter(|policy| policy.action != Action::Audit).cloned().collect();
    assert_eq!(reason(&ask(&silent)), reason(&decision), "an AUDIT policy decided");
}

type Decision = Result<Permit, Denial>;
type Alone<'a> = [(&'a Arc<AuthorizationPolicy>, Decision)];

/// Why it is denied, if it is.
fn reason(decision: &Decision) -> Option<DenialReason> {
    decision.as_ref().err().map(|denial| denial.reason)
}

/// The rule of composition: STRICT, then DENY, then actions that are not known, then ALLOW.
fn expected(strict: bool, alone: &Alone<'_>) -> Option<DenialReason> {
    let some = |wanted: DenialReason| alone.iter().any(|(_, decision)| reason(decision) == Some(wanted));
    let allows = alone.iter().any(|(_, decision)| decision.as_ref().is_ok_and(|permit| permit.by.is_some()));
    if strict {
        Some(DenialReason::StrictMtls)
    } else if some(DenialReason::DenyPolicy) {
        Some(DenialReason::DenyPolicy)
    } else if some(DenialReason::UnknownPolicy) {
        Some(DenialReason::UnknownPolicy)
    } else if some(DenialReason::NoAllowMatch) && !allows {
        Some(DenialReason::NoAllowMatch)
    } else {
        None
    }
}

/// The rule that is named as deciding decides alike when its policy stands alone.
fn named(decision: &Decision, alone: &Alone<'_>) {
    let by = match decision {
        Ok(permit) => &permit.by,
        Err(denial) => &denial.by,
    };
    let Some(by) = by.as_ref().filter(|by| by.kind == PolicyKind::AuthorizationPolicy) else { return };
    let Some((policy, decided)) = alone.iter().find(|(policy, _)| policy.name == by.policy) else {
        panic!("{by} decided, and there is no such policy");
    };
    assert_eq!(reason(decided), reason(decision), "{by} decides otherwise alone");
    if let Some(rule) = by.rule {
        assert!(rule < policy.rules.len(), "{by}: the policy has {} rules", policy.rules.len());
    }
}

fn snapshot(
    pod: &Arc<Workload>,
    policies: &[Arc<AuthorizationPolicy>],
    modes: &[Arc<PeerAuthentication>],
) -> Arc<Snapshot> {
    let mut mesh = Mesh::new(MeshConfig { root_namespace: ROOT.into(), networks: None });
    let updates = std::iter::once(Update::Workload(pod.clone()))
        .chain(policies.iter().cloned().map(Update::Authorization))
        .chain(modes.iter().cloned().map(Update::PeerAuthentication));
    mesh.apply(updates);
    mesh.snapshot()
}

fn policies(draw: &mut Draw<'_>) -> Vec<Arc<AuthorizationPolicy>> {
    let mut index = 0;
    draw.some(5, |draw| {
        index += 1;
        Arc::new(AuthorizationPolicy {
            name: NamespacedName::new(draw.one_of(&NAMES), format!("policy-{index}")),
            scope: scope(draw),
            action: draw.one_of(&[Action::Allow, Action::Deny, Action::Audit, Action::Unknown]),
            rules: draw.some(3, |draw| Rule {
                clauses: draw.some(3, |draw| Clause(draw.some(2, matching))),
                l7: draw.one_in(6),
            }),
        })
    })
}

fn peer_authentications(draw: &mut Draw<'_>) -> Vec<Arc<PeerAuthentication>> {
    const MODES: [Option<MtlsMode>; 4] =
        [None, Some(MtlsMode::Strict), Some(MtlsMode::Permissive), Some(MtlsMode::Disable)];
    let mut index = 0;
    draw.some(3, |draw| {
        index += 1;
        Arc::new(PeerAuthentication {
            name: NamespacedName::new(draw.one_of(&NAMES), format!("mode-{index}")),
            scope: scope(draw),
            mode: draw.one_of(&MODES),
            ports: draw.some(2, |draw| (draw.one_of(&PORTS), draw.one_of(&MODES))),
        })
    })
}

fn scope(draw: &mut Draw<'_>) -> PolicyScope {
    match draw.below(5) {
        0 => PolicyScope::Mesh,
        1 => PolicyScope::Namespace,
        2 => PolicyScope::Selector(labels(draw)),
        3 => PolicyScope::Services(draw.some(2, name)),
        _ => PolicyScope::Elsewhere,
    }
}

fn matching(draw: &mut Draw<'_>) -> Match {
    let texts = |draw: &mut Draw<'_>| draw.some(2, |draw| StringMatch::parse_principal(draw.one_of(&TEXTS)));
    let networks = |draw: &mut Draw<'_>| -> Vec<IpNet> {
        draw.some(2, |draw| draw.one_of(&NETWORKS)).iter().filter_map(|text| text.parse().ok()).collect()
    };
    let ports = |draw: &mut Draw<'_>| draw.some(2, |draw| draw.one_of(&PORTS));
    let mut found = Match::default();
    // One or two kinds: with all of them nothing would ever match.
    for _ in 0..=draw.below(2) {
        match draw.below(12) {
            0 => found.principals = texts(draw),
            1 => found.not_principals = texts(draw),
            2 => found.namespaces = texts(draw),
            3 => found.not_namespaces = texts(draw),
            4 => found.service_accounts = texts(draw),
            5 => found.not_service_accounts = texts(draw),
            6 => found.source_ips = networks(draw),
            7 => found.not_source_ips = networks(draw),
            8 => found.destination_ips = networks(draw),
            9 => found.not_destination_ips = networks(draw),
            10 => found.destination_ports = ports(draw),
            _ => found.not_destination_ports = ports(draw),
        }
    }
    found
}

fn workload(draw: &mut Draw<'_>) -> Workload {
    let pod = name(draw);
    let facts = WorkloadFacts {
        name: WorkloadName::pod("Kubernetes", &pod.namespace, &pod.name),
        uid: PodUid::new("pod"),
        namespace: pod.namespace,
        trust_domain: TrustDomain::default(),
        service_account: draw.one_of(&NAMES).into(),
        addresses: [address(draw)].into_iter().collect(),
        node: "node".into(),
        labels: labels(draw).iter().map(|(key, value)| ((&**key).into(), (&**value).into())).collect(),
        named_ports: Vec::new(),
        owner: None,
        canonical_name: None,
        canonical_revision: "latest".into(),
        membership: draw.one_of(&[Membership::Outside, Membership::Desired, Membership::Proven]),
        host_network: draw.one_in(8),
        netns: None,
        terminating: draw.one_in(8),
        finished: draw.one_in(8),
    };
    facts.into()
}

fn identity(draw: &mut Draw<'_>) -> Option<Identity> {
    let trust_domain = TrustDomain::new("td").ok()?;
    Some(Identity::new(trust_domain, draw.one_of(&NAMES), draw.one_of(&NAMES)))
}

fn name(draw: &mut Draw<'_>) -> NamespacedName {
    NamespacedName::new(draw.one_of(&NAMES), draw.one_of(&NAMES))
}

/// Sorted by key, as a workload's labels are.
fn labels(draw: &mut Draw<'_>) -> Arc<[(Arc<str>, Arc<str>)]> {
    let mut labels: Vec<(Arc<str>, Arc<str>)> =
        draw.some(2, |draw| (draw.one_of(&["app", "tier"]).into(), draw.one_of(&NAMES).into()));
    labels.sort();
    labels.dedup_by(|one, other| one.0 == other.0);
    labels.into()
}

fn address(draw: &mut Draw<'_>) -> IpAddr {
    draw.one_of(&ADDRESSES).parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
}
