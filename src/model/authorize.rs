//! May a connection reach a workload: PeerAuthentication and AuthorizationPolicy with Istio's meaning at L4.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use crate::{Identity, NamespacedName, Snapshot, Workload};

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
    pub audited: SmallVec<[RuleRef; 1]>,
}

/// The connection is denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Denial {
    /// Why.
    pub reason: DenialReason,
    /// The rule that denies. For `NoAllowMatch` the ALLOW policy that applies, where it is only one.
    pub by: Option<RuleRef>,
    /// AUDIT rules that matched.
    pub audited: SmallVec<[RuleRef; 1]>,
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
    pub fn authorize(&self, access: &Access<'_>) -> Result<Permit, Denial> {
        let _ = access;
        todo!()
    }
}
