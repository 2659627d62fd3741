//! May a connection reach a workload: PeerAuthentication and AuthorizationPolicy with Istio's meaning at L4.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::{
    Action, AuthorizationPolicy, Clause, Identity, Match, MtlsMode, NamespacedName, Rule, Snapshot,
    StringMatch, Workload,
};

/// A connection at its destination.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Who calls, as proved by mutual TLS or by the network namespace; `None` for plaintext.
    pub identity: Option<&'a Identity>,
    /// Address of the caller.
    pub source: IpAddr,
    /// The workload called.
    pub destination: &'a Workload,
    /// What is called there: the workload's address and its own (target) port.
    pub address: SocketAddr,
}

/// The kinds of policy objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum PolicyKind {
    AuthorizationPolicy,
    PeerAuthentication,
}

/// The policy, and the rule in it, that decided. Shown as `AuthorizationPolicy shop/allow-web rule 0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// Kind of the object.
    pub kind: PolicyKind,
    /// Its namespace and name.
    pub policy: NamespacedName,
    /// Index of the rule in it, from 0; `None` where no single rule decided.
    pub rule: Option<usize>,
}

/// The connection is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// The ALLOW rule that matched; `None` where no ALLOW policy applies.
    pub by: Option<RuleRef>,
    /// AUDIT rules that matched.
    pub audited: Vec<RuleRef>,
}

/// The connection is denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Denial {
    /// Why.
    pub reason: DenialReason,
    /// The rule that denies. For `NoAllowMatch` the ALLOW policy that applies, where it is only one.
    pub by: Option<RuleRef>,
    /// AUDIT rules that matched.
    pub audited: Vec<RuleRef>,
}

/// Why a connection is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialReason {
    /// A DENY rule matches.
    DenyPolicy,
    /// ALLOW policies apply, and none matches.
    NoAllowMatch,
    /// The destination takes mutual TLS only, and the caller has no identity.
    StrictMtls,
    /// A policy with an action that this version does not know matches.
    UnknownPolicy,
}

impl DenialReason {
    /// Short reason for flow records and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::DenyPolicy => "deny-policy",
            Self::NoAllowMatch => "no-allow-match",
            Self::StrictMtls => "strict-mtls",
            Self::UnknownPolicy => "unknown-policy",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
        })
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.policy)?;
        match self.rule {
            Some(rule) => write!(f, " rule {rule}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason, &self.by) {
            (DenialReason::DenyPolicy, Some(by)) => write!(f, "{by} denies it"),
            (DenialReason::DenyPolicy, None) => f.write_str("a DENY policy denies it"),
            (DenialReason::NoAllowMatch, Some(by)) => {
                write!(f, "{by} applies and none of its rules allows it")
            }
            (DenialReason::NoAllowMatch, None) => {
                f.write_str("ALLOW policies apply and none of their rules allows it")
            }
            (DenialReason::StrictMtls, Some(by)) => {
                write!(f, "{by} is STRICT and the caller has no identity")
            }
            (DenialReason::StrictMtls, None) => {
                f.write_str("mutual TLS is required and the caller has no identity")
            }
            (DenialReason::UnknownPolicy, Some(by)) => {
                write!(f, "{by} matches, and this version does not know its action")
            }
            (DenialReason::UnknownPolicy, None) => f.write_str("a policy of an unknown action matches"),
        }
    }
}

impl Snapshot {
    /// Whether `access` is allowed, and which rule decides.
    ///
    /// STRICT mutual TLS is looked at first, then DENY, then actions this version does not know, then ALLOW. AUDIT rules
    /// are evaluated whatever the outcome.
    pub fn authorize(&self, access: &Access<'_>) -> Result<Permit, Denial> {
        let caller = Caller::new(access);
        let reaching = self.authorizations.reaching(access.destination.namespace());
        let mut found = Found::default();
        for policy in reaching.filter(|policy| self.in_scope(policy.as_ref(), access.destination)) {
            found.look(policy, &caller);
        }
        let denied = self.strict(access).map(|by| (DenialReason::StrictMtls, by)).or_else(|| found.denied());
        let audited = found.audited;
        match denied {
            Some((reason, by)) => Err(Denial { reason, by, audited }),
            None => Ok(Permit { by: found.allow, audited }),
        }
    }

    /// Who demands mutual TLS, where the caller has none and somebody does.
    fn strict(&self, access: &Access<'_>) -> Option<Option<RuleRef>> {
        if access.identity.is_some() {
            return None;
        }
        let (mode, by) = self.mtls_mode(access.destination, access.address.port());
        let reference = |policy| RuleRef { kind: PolicyKind::PeerAuthentication, policy, rule: None };
        (mode == MtlsMode::Strict).then(|| by.map(reference))
    }
}

/// What the policies looked at so far say: the first match of each action.
#[derive(Default)]
struct Found {
    deny: Option<RuleRef>,
    unknown: Option<RuleRef>,
    allow: Option<RuleRef>,
    /// How many ALLOW policies apply, and the first of them.
    allowing: usize,
    first_allowing: Option<RuleRef>,
    audited: Vec<RuleRef>,
}

impl Found {
    fn look(&mut self, policy: &AuthorizationPolicy, caller: &Caller<'_>) {
        let matched = || {
            let rule = policy.rules.iter().position(|rule| caller.matches(rule, policy.action))?;
            Some(reference(policy, Some(rule)))
        };
        match policy.action {
            Action::Deny => self.deny = self.deny.take().or_else(matched),
            Action::Unknown => self.unknown = self.unknown.take().or_else(matched),
            Action::Allow => {
                self.allow = self.allow.take().or_else(matched);
                self.allowing += 1;
                self.first_allowing.get_or_insert_with(|| reference(policy, None));
            }
            Action::Audit => self.audited.extend(matched()),
        }
    }

    fn denied(&mut self) -> Option<(DenialReason, Option<RuleRef>)> {
        if let Some(by) = self.deny.take() {
            return Some((DenialReason::DenyPolicy, Some(by)));
        }
        if let Some(by) = self.unknown.take() {
            return Some((DenialReason::UnknownPolicy, Some(by)));
        }
        if self.allowing > 0 && self.allow.is_none() {
            let only = self.first_allowing.take().filter(|_| self.allowing == 1);
            return Some((DenialReason::NoAllowMatch, only));
        }
        None
    }
}

fn reference(policy: &AuthorizationPolicy, rule: Option<usize>) -> RuleRef {
    RuleRef { kind: PolicyKind::AuthorizationPolicy, policy: policy.name.clone(), rule }
}

/// An access in the forms that matches compare with.
struct Caller<'a> {
    identity: Option<&'a Identity>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

impl<'a> Caller<'a> {
    fn new(access: &Access<'a>) -> Self {
        Self {
            identity: access.identity,
            source: access.source.to_canonical(),
            destination: access.address.ip().to_canonical(),
            port: access.address.port(),
        }
    }

    fn matches(&self, rule: &Rule, action: Action) -> bool {
        if rule.l7 && action == Action::Allow {
            return false;
        }
        // Without its L7 part a rule that denies (or writes down) gets broader. Where the L7 part was all that stood in a
        // clause or in one of its alternatives, what is left of that holds always.
        let dropped = rule.l7;
        rule.clauses.iter().all(|Clause(alternatives)| {
            (dropped && alternatives.is_empty())
                || alternatives.iter().any(|m| (dropped && m.is_empty()) || self.fits(m))
        })
    }

    fn fits(&self, m: &Match) -> bool {
        let principal = |s: &StringMatch| self.identity.is_some_and(|id| s.matches_principal(id));
        let namespace = |s: &StringMatch| self.identity.is_some_and(|id| s.matches(&id.namespace));
        let account = |s: &StringMatch| self.identity.is_some_and(|id| s.matches_service_account(id));
        let source = |net: &IpNet| net.contains(&self.source);
        let destination = |net: &IpNet| net.contains(&self.destination);
        let port = |port: &u16| *port == self.port;
        !m.is_empty()
            && holds(&m.principals, &m.not_principals, principal)
            && holds(&m.namespaces, &m.not_namespaces, namespace)
            && holds(&m.service_accounts, &m.not_service_accounts, account)
            && holds(&m.source_ips, &m.not_source_ips, source)
            && holds(&m.destination_ips, &m.not_destination_ips, destination)
            && holds(&m.destination_ports, &m.not_destination_ports, port)
    }
}

/// One kind of a match: some value of `any` holds, where there are any, and none of `none`.
fn holds<T>(any: &[T], none: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (any.is_empty() || any.iter().any(&matches)) && !none.iter().any(&matches)
}

#[cfg(test)]
mod tests;
