//! Is the peer who it must be: SPIFFE verifiers for both sides of a handshake, and the same check for resumed sessions.

use std::time::SystemTime;

use aquifer_model::Identity;
use rustls::pki_types::CertificateDer;

use crate::{PeerError, RootId, TrustBundle};

/// Which end of the connection the peer is; its certificate must be made for that (extended key usage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer dialled: clientAuth.
    Client,
    /// The peer was dialled: serverAuth.
    Server,
}

/// A peer's proved identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who it is.
    pub identity: Identity,
    /// The first end of validity on its path (leaf, intermediates, root).
    pub not_after: SystemTime,
    /// The root that its chain led to.
    pub root: RootId,
}

/// Checks the chain that a connection shows (leaf first) against the bundle of today. To be run after each
/// handshake: for a resumed session TLS runs no verifier and takes the chain from the ticket. Trust domain and expected
/// identity need no second look, since tickets never leave the configuration that checked them.
pub fn peer(
    chain: &[CertificateDer<'_>],
    side: Side,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<PeerCertificate, PeerError> {
    todo!("{} {side:?} {bundle:?} {now:?}", chain.len())
}
