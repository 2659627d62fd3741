//! Policies as a ztunnel enforces them. What Istio's Authorization cannot say becomes stricter, never open.

use std::sync::Arc;

use aquifer_model::{Action, AuthorizationPolicy, Clause, Match, PolicyScope, Rule, StringMatch};
use ipnet::IpNet;

use crate::convert::address;
use crate::proto::security as wire;
use wire::string_match::MatchType;

/// What a match is on the wire.
enum Said {
    /// It holds for nobody.
    Never,
    /// It holds for everybody.
    Always,
    Match(Box<wire::Match>),
}

/// The name of a policy's resource; `None` where a ztunnel has nothing to enforce.
///
/// Which workloads a selected policy is about they say themselves, in another resource. So a policy that becomes a selected one, or ceases
/// to be one, is another resource too: then both can be there until all workloads are told, and there is no moment without either. No
/// object of Kubernetes has a `_` in its name.
pub(super) fn name(policy: &AuthorizationPolicy) -> Option<Arc<str>> {
    if matches!(policy.action, Action::Audit) {
        return None;
    }
    match policy.scope {
        PolicyScope::Mesh | PolicyScope::Namespace => Some(policy.name.to_string().into()),
        PolicyScope::Selector(_) | PolicyScope::Services(_) => {
            Some(format!("{}_selected", policy.name).into())
        }
        PolicyScope::Elsewhere => None,
    }
}

/// A policy that has a [`name`].
pub(super) fn to_wire(policy: &AuthorizationPolicy) -> wire::Authorization {
    let scope = match policy.scope {
        PolicyScope::Mesh => wire::Scope::Global,
        PolicyScope::Namespace => wire::Scope::Namespace,
        PolicyScope::Selector(_) | PolicyScope::Services(_) | PolicyScope::Elsewhere => {
            wire::Scope::WorkloadSelector
        }
    };
    // What an action that is not known would decide is not known: it denies.
    let action = if policy.action == Action::Allow { wire::Action::Allow } else { wire::Action::Deny };
    wire::Authorization {
        name: policy.name.name.to_string(),
        namespace: policy.name.namespace.to_string(),
        scope: scope.into(),
        action: action.into(),
        rules: policy.rules.iter().filter_map(|of| rule(of, policy.action)).collect(),
    }
}

/// `None`: it never matches.
fn rule(rule: &Rule, action: Action) -> Option<wire::Rule> {
    let allows = action == Action::Allow;
    if rule.l7 && allows {
        return None;
    }
    let mut clauses = Vec::with_capacity(rule.clauses.len());
    for of in &rule.clauses {
        match clause(of, rule.l7, allows) {
            Some(clause) if clause.matches.is_empty() => return None,
            Some(clause) => clauses.push(clause),
            None => {}
        }
    }
    Some(wire::Rule { clauses })
}

/// `None`: it always holds. One without a match never does, which the wire would read the other way round. `dropped`: what only HTTP
/// shows was taken out, and what is left of nothing holds always.
fn clause(Clause(alternatives): &Clause, dropped: bool, allows: bool) -> Option<wire::Clause> {
    if dropped && alternatives.is_empty() {
        return None;
    }
    let mut matches = Vec::with_capacity(alternatives.len());
    for of in alternatives {
        match said(of, allows) {
            _ if of.is_empty() && dropped => return None,
            _ if of.is_empty() => {}
            Said::Never => {}
            Said::Always => return None,
            Said::Match(of) => matches.push(*of),
        }
    }
    Some(wire::Clause { matches })
}

fn said(of: &Match, allows: bool) -> Said {
    let ports = |all: &[u16]| all.iter().map(|port| u32::from(*port)).collect();
    let (Some(principals), Some(namespaces)) = (some(&of.principals, text), some(&of.namespaces, text))
    else {
        return Said::Never;
    };
    // Istio's has no wildcards here. Then fewer are allowed, or more are denied.
    let wild = |all: &[StringMatch]| all.iter().any(|text| !matches!(text, StringMatch::Exact(_)));
    if allows && wild(&of.not_service_accounts) {
        return Said::Never;
    }
    let accounts = if !allows && wild(&of.service_accounts) { &[] } else { &of.service_accounts[..] };
    let Some(service_accounts) = some(accounts, account) else { return Said::Never };
    let wire = wire::Match {
        namespaces,
        not_namespaces: of.not_namespaces.iter().filter_map(text).collect(),
        principals,
        not_principals: of.not_principals.iter().filter_map(text).collect(),
        source_ips: networks(&of.source_ips),
        not_source_ips: networks(&of.not_source_ips),
        destination_ips: networks(&of.destination_ips),
        not_destination_ips: networks(&of.not_destination_ips),
        destination_ports: ports(&of.destination_ports),
        not_destination_ports: ports(&of.not_destination_ports),
        service_accounts,
        not_service_accounts: of.not_service_accounts.iter().filter_map(account).collect(),
    };
    if wire == wire::Match::default() { Said::Always } else { Said::Match(Box::new(wire)) }
}

/// The values of a kind; `None` where there are some and none of them can be met.
fn some<T, W>(all: &[T], to_wire: impl Fn(&T) -> Option<W>) -> Option<Vec<W>> {
    let wire: Vec<W> = all.iter().filter_map(to_wire).collect();
    (all.is_empty() || !wire.is_empty()).then_some(wire)
}

/// `None`: nobody has it. A caller without an identity has the empty text in a ztunnel, which must not become somebody.
fn text(of: &StringMatch) -> Option<wire::StringMatch> {
    let is = match of {
        StringMatch::Exact(text) if text.is_empty() => return None,
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) | StringMatch::Suffix(text) if text.is_empty() => MatchType::Presence(()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Present => MatchType::Presence(()),
    };
    Some(wire::StringMatch { match_type: Some(is) })
}

/// `None`: nobody has it, or it is a wildcard.
fn account(of: &StringMatch) -> Option<wire::ServiceAccountMatch> {
    let StringMatch::Exact(text) = of else { return None };
    let (namespace, account) =
        text.split_once('/').filter(|(ns, account)| !ns.is_empty() && !account.is_empty())?;
    Some(wire::ServiceAccountMatch { namespace: namespace.to_owned(), service_account: account.to_owned() })
}

fn networks(all: &[IpNet]) -> Vec<wire::Address> {
    all.iter()
        .map(|net| wire::Address { address: address(net.addr()), length: net.prefix_len().into() })
        .collect()
}
