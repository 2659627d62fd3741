//! Is the peer who it must be: SPIFFE verifiers for both sides of a handshake, and the same check for resumed sessions.

use std::cell::Cell;
use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aquifer_model::{Identity, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::certificate::{Facts, plain};
use crate::clock::unix;
use crate::error::Refusal;
use crate::tls::signatures;
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

/// Takes servers that are one of the expected identities.
pub(crate) struct ExpectedServer {
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) expected: Box<[Identity]>,
}

/// Takes clients of the accepted trust domains.
pub(crate) struct MeshClient {
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) accepted: Arc<[TrustDomain]>,
}

/// Checks the chain that a connection shows (leaf first) against the bundle of today. To be run after each
/// handshake: for a resumed session TLS runs no verifier and takes the chain from the ticket. Trust domain and expected
/// identity need no second look, since a ticket is of no use outside the configuration that checked them.
pub fn peer(
    chain: &[CertificateDer<'_>],
    side: Side,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<PeerCertificate, PeerError> {
    let [leaf, intermediates @ ..] = chain else { return Err(PeerError::NoCertificate) };
    let facts = Facts::of(leaf).map_err(PeerError::Malformed)?;
    let end_entity = EndEntityCert::try_from(leaf).map_err(|e| PeerError::Malformed(format!("{e:?}")))?;
    let ended_root = Cell::new(None);
    let root_holds = |path: &VerifiedPath<'_>| match bundle.root_of(path.anchor()) {
        Some(root) if root.not_after >= now => Ok(()),
        root => {
            ended_root.set(root.map(|r| r.subject.clone()));
            Err(webpki::Error::UnknownIssuer)
        }
    };
    let path = end_entity
        .verify_for_usage(
            signatures().all,
            bundle.anchors(),
            intermediates,
            unix(now),
            side.usage(),
            None,
            Some(&root_holds),
        )
        .map_err(|error| match (ended_root.take(), error) {
            (Some(root), webpki::Error::UnknownIssuer) => PeerError::RootEnded(root),
            (_, error) => refusal(error, side, &facts, bundle),
        })?;
    let root =
        bundle.root_of(path.anchor()).ok_or_else(|| PeerError::Chain("its root is gone".to_owned()))?;
    let mut not_after = facts.not_after.min(root.not_after);
    for intermediate in path.intermediate_certificates() {
        not_after = not_after.min(Facts::of(&intermediate.der()).map_err(PeerError::Malformed)?.not_after);
    }
    let made_for_it = match side {
        Side::Client => facts.client_auth,
        Side::Server => facts.server_auth,
    };
    if !made_for_it {
        return Err(PeerError::WrongUsage(side.name()));
    }
    Ok(PeerCertificate { identity: named(&facts)?, not_after, root: root.id })
}

/// The one identity that a certificate names.
pub(crate) fn named(facts: &Facts) -> Result<Identity, PeerError> {
    match facts.uris.as_slice() {
        [Some(uri)] => uri.parse().map_err(|e| PeerError::NotAnIdentity(plain(&format!("{e}")))),
        [None] => Err(PeerError::NotAnIdentity("its URI name is no text".to_owned())),
        uris => Err(PeerError::UriNames(uris.len())),
    }
}

/// The first four of a list, for messages.
pub(crate) fn some_of<T: Display>(items: impl ExactSizeIterator<Item = T>) -> String {
    const SHOWN: usize = 4;
    let more = items.len().saturating_sub(SHOWN);
    let mut text = items.take(SHOWN).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

impl Side {
    /// For the whole path: an intermediate may leave the extension out. That the leaf has it is checked apart.
    fn usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Client => "clientAuth",
            Self::Server => "serverAuth",
        }
    }
}

fn refusal(error: webpki::Error, side: Side, facts: &Facts, bundle: &TrustBundle) -> PeerError {
    let moment = |time: UnixTime| UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match error {
        webpki::Error::UnknownIssuer => {
            PeerError::UnknownRoot { issuer: facts.issuer.clone(), roots: bundle.subjects() }
        }
        // A root of the same name with another key: the usual sight of two CAs that were made apart.
        webpki::Error::InvalidSignatureForPublicKey => {
            PeerError::UnknownRoot { issuer: facts.issuer.clone(), roots: bundle.subjects() }
        }
        webpki::Error::CertExpired { not_after, .. } => PeerError::Expired { not_after: moment(not_after) },
        webpki::Error::CertNotValidYet { not_before, .. } => {
            PeerError::NotYetValid { not_before: moment(not_before) }
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => PeerError::WrongUsage(side.name()),
        other => PeerError::Chain(format!("{other:?}")),
    }
}

/// The error for rustls. Expiry keeps the alert that says so to the peer; the rest keeps our own words.
fn to_tls(error: PeerError, now: UnixTime) -> rustls::Error {
    let certificate = match error {
        PeerError::Expired { not_after } => {
            CertificateError::ExpiredContext { time: now, not_after: unix(not_after) }
        }
        PeerError::NotYetValid { not_before } => {
            CertificateError::NotValidYetContext { time: now, not_before: unix(not_before) }
        }
        other => CertificateError::Other(OtherError(Arc::new(Refusal(other)))),
    };
    rustls::Error::InvalidCertificate(certificate)
}

fn check(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    side: Side,
    bundle: &TrustBundle,
    now: UnixTime,
) -> Result<Identity, PeerError> {
    let chain: Vec<_> =
        std::iter::once(leaf).chain(intermediates).map(|c| CertificateDer::from(&**c)).collect();
    let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
    Ok(peer(&chain, side, bundle, now)?.identity)
}

impl ExpectedServer {
    fn take(&self, identity: Identity) -> Result<(), PeerError> {
        if self.expected.is_empty() {
            return Err(PeerError::NothingExpected);
        }
        if !self.expected.contains(&identity) {
            return Err(PeerError::Unexpected { identity, expected: some_of(self.expected.iter()) });
        }
        Ok(())
    }
}

impl MeshClient {
    fn take(&self, identity: Identity) -> Result<(), PeerError> {
        if !self.accepted.contains(&identity.trust_domain) {
            return Err(PeerError::ForeignTrustDomain { identity, accepted: some_of(self.accepted.iter()) });
        }
        Ok(())
    }
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        check(leaf, intermediates, Side::Server, &self.bundle, now)
            .and_then(|identity| self.take(identity))
            .map(|()| ServerCertVerified::assertion())
            .map_err(|error| to_tls(error, now))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, signatures())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes(signatures())
    }
}

impl ClientCertVerifier for MeshClient {
    /// None: a client has one certificate to show, and a list of all roots costs bytes in each handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        check(leaf, intermediates, Side::Client, &self.bundle, now)
            .and_then(|identity| self.take(identity))
            .map(|()| ClientCertVerified::assertion())
            .map_err(|error| to_tls(error, now))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, signatures())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes(signatures())
    }
}

fn schemes(algorithms: &WebPkiSupportedAlgorithms) -> Vec<SignatureScheme> {
    algorithms.supported_schemes()
}

impl fmt::Debug for ExpectedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpectedServer").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl fmt::Debug for MeshClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshClient").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
