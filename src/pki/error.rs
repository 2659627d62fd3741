//! What can go wrong, whose fault it is and what to do.

use std::sync::Arc;

use aquifer_model::Identity;

/// The authority cannot be used or cannot sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// to be widened
    #[error("{0}")]
    Key(String),
}

/// A peer's certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer sent none.
    #[error("the peer presented no certificate: only peers inside the mesh are taken on this port")]
    NoCertificate,
}

/// No certificate for an identity.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The authority did not give one.
    #[error("no certificate for {identity}: {source}")]
    Issue {
        /// For whom.
        identity: Identity,
        /// Why.
        source: Arc<CaError>,
    },
}

impl PeerError {
    /// Finds the reason in an error of a TLS handshake, where one of our verifiers refused the peer.
    pub fn from_tls(error: &rustls::Error) -> Option<Self> {
        todo!("{error}")
    }
}
