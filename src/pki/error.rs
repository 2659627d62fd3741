//! What can go wrong with certificates: what failed, whose fault it is, what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_model::{Identity, TrustDomain};

use crate::clock::utc;

/// The authority cannot be used, or did not give a usable certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The folder cannot be made or opened.
    #[error("the CA folder {} cannot be used: {source}; make it a folder that this process may read and write", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("{} cannot be read: {source}; make it a file that this process may read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// A file is larger than certificates ever are.
    #[error("{} is larger than {limit} bytes: this is no PEM file of a CA", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// A new CA could not be written.
    #[error("a new CA cannot be written to {}: {source}; {}; nothing that was there has changed", path.display(), advice(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// Another process holds the folder's lock.
    #[error("another process has held the lock of the CA folder {} for {} s; end it, or start again when it is done", path.display(), waited.as_secs())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// Some files are there and others not.
    #[error("the CA folder {} has no {}: put it there, or empty the folder to have a new CA made", path.display(), missing.join(" and no "))]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// The absent files.
        missing: Vec<&'static str>,
    },
    /// A crashed start left a new CA beside files that somebody put there since.
    #[error("{} holds a CA whose creation was interrupted, and {} exists too: remove one of the two", pending.display(), path.display())]
    Conflict {
        /// The interrupted creation.
        pending: PathBuf,
        /// The file in its way.
        path: PathBuf,
    },
    /// A file is no PEM, or holds not what it must.
    #[error("{}: {detail}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong; never a part of the file.
        detail: String,
    },
    /// Key and certificate are not a pair.
    #[error("{} is not the key of the certificate in {}: replace both together", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// What the CA signs would be refused by its own bundle.
    #[error("certificates signed by {} are not trusted by {}: {detail}; complete cert-chain.pem, or add the CA's root", certificate.display(), roots.display())]
    NoPath {
        /// The CA's certificate.
        certificate: PathBuf,
        /// The roots.
        roots: PathBuf,
        /// What a verifier says.
        detail: String,
    },
    /// The CA's certificate, or one above it, has ended.
    #[error("the CA ended on {}: replace its certificate", utc(*not_after))]
    Ended {
        /// When.
        not_after: SystemTime,
    },
    /// The CA signs for its own trust domain only.
    #[error("{identity} is not of the trust domain {own} that this CA signs for: check --trust-domain")]
    ForeignIdentity {
        /// What was asked for.
        identity: Identity,
        /// What the CA signs for.
        own: TrustDomain,
    },
    /// The identity cannot be written into a certificate.
    #[error(
        "{0} cannot be written into a certificate: a URI has ASCII characters and at most 2048 of them (SPIFFE ID §2.3)"
    )]
    Unwritable(Identity),
    /// The crypto library failed.
    #[error("the crypto library failed to {0}")]
    Crypto(&'static str),
    /// The controller cannot be reached.
    #[error("the controller at {url} cannot be reached: {error}; is it running, and may this node call it?")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What happened.
        error: String,
    },
    /// The controller said no.
    #[error("the controller at {url} refused ({code}): {reason}")]
    Refused {
        /// Where it is.
        url: String,
        /// gRPC's word.
        code: String,
        /// Its own words.
        reason: String,
    },
    /// The authority took too long.
    #[error("the CA gave no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The authority's answer is of no use.
    #[error("the CA answered with a certificate of no use: {0}")]
    Unusable(String),
}

/// Why a peer's certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// None was sent.
    #[error("the peer sent no certificate: this port takes mesh peers only")]
    NoCertificate,
    /// It is no X.509 certificate.
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(String),
    /// The chain leads nowhere we trust.
    #[error(
        "the peer's certificate, issued by {issuer:?}, leads to none of the roots that this node trusts ({roots}): \
             the two sides have different CAs, or one of them has not yet got the new root"
    )]
    UnknownRoot {
        /// Issuer of the leaf.
        issuer: String,
        /// Our roots.
        roots: String,
    },
    /// The chain leads to a root that has ended.
    #[error(
        "the peer's certificate leads to the root {0:?}, which has ended: replace the root in the trust bundle"
    )]
    RootEnded(String),
    /// The certificate or one of its intermediates has ended.
    #[error("the peer's certificate ended on {}: the peer did not renew it, or one of the two clocks is wrong", utc(*not_after))]
    Expired {
        /// When.
        not_after: SystemTime,
    },
    /// It is not valid yet.
    #[error("the peer's certificate begins only on {}: one of the two clocks is wrong", utc(*not_before))]
    NotYetValid {
        /// From when.
        not_before: SystemTime,
    },
    /// The chain breaks a rule.
    #[error("the peer's chain of certificates is wrong: {0}")]
    Chain(String),
    /// Not made for this side of a connection.
    #[error(
        "the peer's certificate is not made for {0} (extended key usage): its CA must issue it with serverAuth and clientAuth"
    )]
    WrongUsage(&'static str),
    /// Not exactly one URI name.
    #[error("the peer's certificate has {0} URI names where a SPIFFE certificate has exactly one")]
    UriNames(usize),
    /// The URI is no identity of the mesh.
    #[error("the peer's certificate names no identity: {0}")]
    NotAnIdentity(String),
    /// Another trust domain.
    #[error("the peer {identity} is of trust domain {}, this node takes only {accepted}: \
             check --trust-domain on both sides, or make it an alias", identity.trust_domain)]
    ForeignTrustDomain {
        /// Who called.
        identity: Identity,
        /// Who may.
        accepted: String,
    },
    /// Somebody else answered.
    #[error(
        "the peer is {identity}, expected was {expected}: the address belongs to another workload by now, \
             or somebody answers in its place"
    )]
    Unexpected {
        /// Who answered.
        identity: Identity,
        /// Who should.
        expected: String,
    },
    /// Nobody could have been right.
    #[error(
        "no identity is expected at this destination, so no peer can be right: the destination has no known service account"
    )]
    NothingExpected,
}

/// No certificate for an identity.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no certificate for {identity}: {source}")]
pub struct PkiError {
    /// For whom.
    pub identity: Identity,
    /// Why.
    #[source]
    pub source: Arc<CaError>,
}

/// A [`PeerError`] on its way through rustls, whose own messages print an error of ours by `Debug`: here that is the
/// sentence for people too.
#[derive(thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) PeerError);

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl PeerError {
    /// A short word for metrics and flow records.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Malformed(_) | Self::Chain(_) => "bad-certificate",
            Self::UnknownRoot { .. } | Self::RootEnded(_) => "unknown-root",
            Self::Expired { .. } => "certificate-expired",
            Self::NotYetValid { .. } => "certificate-not-yet-valid",
            Self::WrongUsage(_) => "certificate-usage",
            Self::UriNames(_) | Self::NotAnIdentity(_) => "no-identity",
            Self::ForeignTrustDomain { .. } => "foreign-trust-domain",
            Self::Unexpected { .. } | Self::NothingExpected => "unexpected-identity",
        }
    }

    /// Finds the reason in the error of a TLS handshake in which one of our verifiers refused the peer.
    pub fn from_tls(error: &rustls::Error) -> Option<Self> {
        use rustls::CertificateError;
        use std::time::UNIX_EPOCH;
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                other.0.downcast_ref::<Refusal>().map(|refusal| refusal.0.clone())
            }
            rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
                Some(Self::Expired { not_after: UNIX_EPOCH + Duration::from_secs(not_after.as_secs()) })
            }
            rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
                not_before, ..
            }) => {
                Some(Self::NotYetValid { not_before: UNIX_EPOCH + Duration::from_secs(not_before.as_secs()) })
            }
            _ => None,
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full: free some space",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "let this process write there, or put a CA there yourself"
        }
        _ => "see to the disk",
    }
}
