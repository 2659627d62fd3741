//! The trust bundle: the roots that a peer's certificate may chain to, as one immutable value.

use std::fmt;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::CaError;

/// The roots trusted at one time.
#[derive(Clone)]
pub struct TrustBundle {
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// One trusted root.
#[derive(Clone, Debug)]
pub struct Root {
    /// What tells it from others.
    pub id: RootId,
    /// Its distinguished name, for people.
    pub subject: String,
    /// When it ends; from then on nothing chains to it.
    pub not_after: SystemTime,
}

/// What a trust anchor is: SHA-256 over the subject and the public key. A root that was renewed with the same name
/// and key keeps its id, and connections that chain to it live on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootId([u8; 32]);

impl TrustBundle {
    /// Takes roots in DER; the same root twice counts once. At least one and at most [`TrustBundle::MAX_ROOTS`].
    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Self, CaError> {
        todo!("{}", certificates.len())
    }

    /// The roots, in the order given.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether the root is still trusted.
    pub fn contains(&self, root: RootId) -> bool {
        self.roots.iter().any(|r| r.id == root)
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.anchors.iter().map(|a| a.subject.len())).finish()
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::certificate::hex(&self.0[..8]))
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootId({self})")
    }
}
