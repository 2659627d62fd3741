//! A ztunnel's own decisions, by what it is told alone (istio/ztunnel 62d8265, `rbac.rs` and `state.rs`), written anew for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use aquifer_model::Identity;
use ipnet::IpNet;

use crate::proto::security::{self, Action, Match, Scope, StringMatch, string_match::MatchType};
use crate::proto::workload as wire;

pub(super) struct Caller<'a> {
    pub(super) identity: Option<&'a Identity>,
    pub(super) source: IpAddr,
    pub(super) destination: SocketAddr,
}

/// Whether it lets a caller through.
pub(super) fn allows(
    policies: &BTreeMap<String, security::Authorization>,
    workload: &wire::Workload,
    caller: &Caller<'_>,
) -> bool {
    let concerned = |(name, policy): &(&String, &security::Authorization)| match policy.scope() {
        Scope::Global => true,
        Scope::Namespace => policy.namespace == workload.namespace,
        Scope::WorkloadSelector => workload.authorization_policies.contains(name),
    };
    let all: Vec<_> = policies.iter().filter(concerned).map(|(_, policy)| policy).collect();
    let matched =
        |policy: &&&security::Authorization| policy.rules.iter().any(|rule| rule_holds(rule, caller));
    let of = |action: Action| all.iter().filter(move |policy| policy.action() == action);
    if of(Action::Deny).any(|policy| matched(&policy)) {
        return false;
    }
    of(Action::Allow).next().is_none() || of(Action::Allow).any(|policy| matched(&policy))
}

fn rule_holds(rule: &security::Rule, caller: &Caller<'_>) -> bool {
    rule.clauses.iter().all(|clause| {
        clause.matches.is_empty() || clause.matches.iter().any(|m| *m != Match::default() && holds(m, caller))
    })
}

fn holds(m: &Match, caller: &Caller<'_>) -> bool {
    let Caller { identity, source, destination } = caller;
    let namespace = identity.map_or("", |identity| &identity.namespace);
    let principal = |text: &StringMatch| {
        identity.is_some_and(|id| text_holds(text, id.to_string().strip_prefix("spiffe://").unwrap()))
    };
    let account = |of: &security::ServiceAccountMatch| {
        identity.is_some_and(|id| *id.namespace == of.namespace && *id.service_account == of.service_account)
    };
    let net = |of: &security::Address, ip: IpAddr| network(of).contains(&ip);
    let port = |of: &u32| *of == u32::from(destination.port());
    kind(&m.namespaces, &m.not_namespaces, |text| text_holds(text, namespace))
        && kind(&m.principals, &m.not_principals, principal)
        && kind(&m.service_accounts, &m.not_service_accounts, account)
        && kind(&m.source_ips, &m.not_source_ips, |of| net(of, *source))
        && kind(&m.destination_ips, &m.not_destination_ips, |of| net(of, destination.ip().to_canonical()))
        && kind(&m.destination_ports, &m.not_destination_ports, port)
}

fn kind<T>(any: &[T], none: &[T], of: impl Fn(&T) -> bool) -> bool {
    (any.is_empty() || any.iter().any(&of)) && !none.iter().any(&of)
}

fn text_holds(of: &StringMatch, text: &str) -> bool {
    match of.match_type.as_ref().unwrap() {
        MatchType::Exact(exact) => text == exact,
        MatchType::Prefix(prefix) => text.starts_with(prefix),
        MatchType::Suffix(suffix) => text.ends_with(suffix),
        MatchType::Presence(()) => !text.is_empty(),
    }
}

fn network(of: &security::Address) -> IpNet {
    IpNet::new(ip(&of.address), of.length.try_into().unwrap()).unwrap()
}

fn ip(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(bytes).unwrap().into(),
    }
}

/// Where it may send a call of a Service's port: address, port, and whether in a tunnel.
pub(super) fn endpoints(
    workloads: &BTreeMap<String, wire::Workload>,
    service: &wire::Service,
    key: &str,
    port: u16,
) -> BTreeSet<(IpAddr, u16, bool)> {
    let balancing = service.load_balancing.clone().unwrap_or_default();
    let all = balancing.health_policy() == wire::load_balancing::HealthPolicy::AllowAll;
    let mut found = BTreeSet::new();
    for workload in workloads.values().filter(|w| all || w.status() == wire::WorkloadStatus::Healthy) {
        let Some(ports) = workload.services.get(key) else { continue };
        let Some(to) = ports.ports.iter().find(|p| p.service_port == u32::from(port)) else { continue };
        let hbone = workload.tunnel_protocol() == wire::TunnelProtocol::Hbone;
        let target = to.target_port.try_into().unwrap();
        found.extend(workload.addresses.iter().map(|address| (ip(address), target, hbone)));
    }
    found
}
