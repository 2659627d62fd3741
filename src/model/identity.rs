//! SPIFFE identities as the mesh uses them: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A SPIFFE trust domain, such as `cluster.local` (SPIFFE ID §2.1: lower case letters, digits, `.`, `-`, `_`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TrustDomain(Arc<str>);

/// Who a workload is: proved by its certificate, or by the network namespace that a socket lives in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Whose authority vouches for it.
    pub trust_domain: TrustDomain,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Kubernetes service account.
    pub service_account: Arc<str>,
}

/// Why a text is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text is not of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[error("{0:?} is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Form(String),
    /// The trust domain has a character that SPIFFE does not allow, or is empty or over 255 bytes.
    #[error("{0:?} is not a SPIFFE trust domain (1 to 255 of a-z 0-9 . - _)")]
    TrustDomain(String),
}

impl TrustDomain {
    /// Checks and wraps a trust domain.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > 255 || !name.chars().all(allowed) {
            return Err(IdentityError::TrustDomain(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn share(&mut self, shared: impl FnOnce(&mut Arc<str>)) {
        shared(&mut self.0);
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl Identity {
    /// Puts an identity together from its parts.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: impl Into<Arc<str>>,
        service_account: impl Into<Arc<str>>,
    ) -> Self {
        Self { trust_domain, namespace: namespace.into(), service_account: service_account.into() }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(text.chars().take(300).collect());
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(form)?.split('/');
        let (domain, ns, namespace, sa, account) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        match (domain, ns, namespace, sa, account, parts.next()) {
            (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None)
                if !namespace.is_empty() && !account.is_empty() =>
            {
                Ok(Self::new(TrustDomain::new(domain)?, namespace, account))
            }
            _ => Err(form()),
        }
    }
}

impl serde::Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
