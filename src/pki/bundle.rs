//! The trust bundle: the roots that a peer's certificate may chain to, as one immutable value.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::certificate::{Facts, hex};

/// The roots trusted at one time.
#[derive(Clone)]
pub struct TrustBundle {
    roots: Vec<Root>,
    /// One for each of `roots`, in the same order.
    anchors: Vec<TrustAnchor<'static>>,
}

/// One trusted root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// What tells it from others.
    pub id: RootId,
    /// Its distinguished name, for people.
    pub subject: String,
    /// When it ends; from then on nothing chains to it.
    pub not_after: SystemTime,
}

/// What a trust anchor is: SHA-256 over its subject, public key and name constraints. A root that was renewed with
/// the same name and key keeps its id, and connections that chain to it live on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootId([u8; 32]);

impl TrustBundle {
    /// Most roots in a bundle: a rotation needs two, a federation some dozens, and each one costs every handshake.
    pub const MAX_ROOTS: usize = 128;

    /// Takes roots in DER, at least one and at most [`TrustBundle::MAX_ROOTS`]; of the same root twice the one that
    /// ends later counts. The error says which certificate is wrong, and why.
    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Self, String> {
        if certificates.is_empty() {
            return Err("holds no certificate: at least one root is needed".to_owned());
        }
        if certificates.len() > Self::MAX_ROOTS {
            return Err(format!("holds {} roots, more than {}", certificates.len(), Self::MAX_ROOTS));
        }
        let mut bundle = Self { roots: Vec::new(), anchors: Vec::new() };
        for (index, der) in certificates.iter().enumerate() {
            bundle.add(der).map_err(|detail| format!("certificate {}: {detail}", index + 1))?;
        }
        Ok(bundle)
    }

    /// The roots, in the order given.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether the root is still trusted.
    pub fn contains(&self, root: RootId) -> bool {
        self.roots.iter().any(|r| r.id == root)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The root behind an anchor that came out of [`TrustBundle::anchors`].
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        let at = self.anchors.iter().position(|a| {
            a.subject.as_ref() == anchor.subject.as_ref()
                && a.subject_public_key_info.as_ref() == anchor.subject_public_key_info.as_ref()
                && a.name_constraints.as_deref() == anchor.name_constraints.as_deref()
        })?;
        self.roots.get(at)
    }

    /// The subjects of the roots, for messages: the first four.
    pub(crate) fn subjects(&self) -> String {
        crate::verify::some_of(self.roots.iter().map(|r| &r.subject))
    }

    fn add(&mut self, der: &CertificateDer<'_>) -> Result<(), String> {
        let facts = Facts::of(der)?;
        if !facts.is_ca {
            return Err(format!("{:?} is no CA certificate (basic constraints)", facts.subject));
        }
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|e| format!("no trust anchor: {e:?}"))?;
        let root = Root { id: RootId::of(&anchor), subject: facts.subject, not_after: facts.not_after };
        match self.roots.iter_mut().find(|r| r.id == root.id) {
            Some(known) => known.not_after = known.not_after.max(root.not_after),
            None => {
                self.roots.push(root);
                self.anchors.push(anchor.to_owned());
            }
        }
        Ok(())
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustBundle").field(&self.roots).finish()
    }
}

impl RootId {
    fn of(anchor: &TrustAnchor<'_>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        let constraints = anchor.name_constraints.as_deref().unwrap_or_default();
        for part in [anchor.subject.as_ref(), anchor.subject_public_key_info.as_ref(), constraints] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        Self(id)
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..8]))
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootId({self})")
    }
}
