//! Authorization policies and mTLS modes, with the meaning of `security.istio.io/v1`, normalised for evaluation.

use std::sync::Arc;

use ipnet::IpNet;

use crate::{Identity, NamespacedName};

/// An AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Which workloads it is about.
    pub scope: PolicyScope,
    /// What a match means.
    pub action: Action,
    /// Rules, OR-ed. None at all: the policy never matches.
    pub rules: Vec<Rule>,
}

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum PolicyScope {
    /// All workloads (a policy in the root namespace without selector).
    Mesh,
    /// All workloads of its namespace.
    Namespace,
    /// Workloads of its namespace (in the root namespace: of all) that carry all these labels.
    Selector(Arc<[(Arc<str>, Arc<str>)]>),
    /// Workloads that serve one of these Services of its namespace, now or by selector (`targetRefs`).
    Services(Vec<NamespacedName>),
    /// A target that no L4 proxy enforces (a Gateway): known, reported, never evaluated here.
    Elsewhere,
}

/// What follows from a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Action {
    /// Some ALLOW policy must match as soon as one applies.
    Allow,
    /// A match denies.
    Deny,
    /// A match is written down, nothing else.
    Audit,
    /// An action this version does not know (CUSTOM): what it would decide is unknown, so it denies all that its
    /// rules match, and all where they cannot be read.
    Unknown,
}

/// One rule: all clauses must hold. No clauses: it always matches.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rule {
    /// `from`, `to` and `when`, a clause each.
    pub clauses: Vec<Clause>,
    /// The rule (also) asks for what only HTTP shows: at L4 it never matches in an ALLOW policy (stricter), and in a
    /// DENY policy the L7 part is dropped (broader). The L7 fields themselves are not in `clauses`.
    pub l7: bool,
}

/// A clause holds when one of its matches does. (Its name in Istio's protos: rule → clause → match.)
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Clause(
    /// The alternatives.
    pub Vec<Match>,
);

/// Kinds AND-ed; the values of a kind OR-ed; of the `not_` values none may hold. An empty match never matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)] // Istio's own field names; the type says how they combine.
pub struct Match {
    /// Compared against the whole identity without `spiffe://`.
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    /// `namespace/service-account`.
    pub service_accounts: Vec<StringMatch>,
    pub not_service_accounts: Vec<StringMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: PortSet,
    pub not_destination_ports: PortSet,
}

/// A set of ports.
pub type PortSet = Vec<u16>;

/// Istio's string match: exact, `prefix*`, `*suffix`, or `*` (present: not empty).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Present,
}

/// A PeerAuthentication: does a workload take callers without mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PeerAuthentication {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Which workloads; narrowest wins: selector, then namespace, then mesh; among equals the first by name.
    pub scope: PolicyScope,
    /// Mode where no port says otherwise; `None` inherits from the wider scope.
    pub mode: Option<MtlsMode>,
    /// Modes of single workload ports (only with a selector, as in Istio). `None`: as the wider scope says.
    pub ports: Vec<(u16, Option<MtlsMode>)>,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum MtlsMode {
    /// Callers without identity are denied.
    Strict,
    /// Both.
    Permissive,
    /// As permissive for callers: plaintext is taken. Mesh peers still use the tunnel, as in Istio's ambient mode.
    Disable,
}

impl StringMatch {
    /// Reads Istio's notation.
    pub fn parse(text: &str) -> Self {
        match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
            ("*", _, _) => Self::Present,
            (_, Some(prefix), _) => Self::Prefix(prefix.into()),
            (_, _, Some(suffix)) => Self::Suffix(suffix.into()),
            _ => Self::Exact(text.into()),
        }
    }

    /// Reads a principal, which may be written with `spiffe://` in front (istio/ztunnel#1901: it must work too).
    pub fn parse_principal(text: &str) -> Self {
        Self::parse(text.strip_prefix("spiffe://").unwrap_or(text))
    }

    /// Whether `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == text.as_ref(),
            Self::Prefix(text) => value.starts_with(text.as_ref()),
            Self::Suffix(text) => value.ends_with(text.as_ref()),
            Self::Present => !value.is_empty(),
        }
    }

    /// Whether an identity's principal (without scheme) matches.
    pub fn matches_principal(&self, identity: &Identity) -> bool {
        let Identity { trust_domain, namespace, service_account } = identity;
        self.matches_joined(&[trust_domain.as_str(), "/ns/", namespace, "/sa/", service_account])
    }

    /// Whether an identity's `namespace/service-account` matches.
    pub fn matches_service_account(&self, identity: &Identity) -> bool {
        self.matches_joined(&[&identity.namespace, "/", &identity.service_account])
    }

    /// [`StringMatch::matches`] of the parts put together, without putting them together.
    fn matches_joined(&self, parts: &[&str]) -> bool {
        let bytes = || parts.iter().flat_map(|part| part.bytes());
        let length: usize = parts.iter().map(|part| part.len()).sum();
        match self {
            Self::Exact(text) => text.len() == length && bytes().eq(text.bytes()),
            Self::Prefix(text) => text.len() <= length && text.bytes().eq(bytes().take(text.len())),
            Self::Suffix(text) => text.len() <= length && text.bytes().eq(bytes().skip(length - text.len())),
            Self::Present => length > 0,
        }
    }
}

impl Match {
    /// Whether it asks for nothing; such a match never matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
