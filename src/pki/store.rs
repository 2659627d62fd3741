//! Certificates by identity, held while somebody needs them and renewed in time, and the trust bundle.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_model::{Identity, TrustDomain};
use tokio::sync::watch;

use crate::{Clock, Issuer, Observer, PeerCertificate, PkiError, TrustBundle};

/// Settings of a [`Store`].
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The trust domain of this node.
    pub trust_domain: TrustDomain,
    /// Other trust domains whose clients are taken.
    pub aliases: Vec<TrustDomain>,
    /// How long certificates hold; default 24 h.
    pub lifetime: Duration,
    /// How long one attempt at a certificate may take; default 10 s.
    pub issue_deadline: Duration,
}

/// Certificates by identity. Clones are the same store.
#[derive(Clone)]
pub struct Store {}

/// A use of an identity's certificate; while one lives, the certificate is renewed. Clones are cheap.
#[derive(Clone)]
pub struct Held {}

/// Whether what was proved at a handshake still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Yes,
    /// The certificate has ended: no new streams; streams on it live on.
    Expired,
    /// The root has left the bundle: everything on it ends.
    RootRemoved,
}

/// What is told of one certificate; no key material.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CertificateReport {
    /// For whom.
    pub identity: Identity,
    /// In hexadecimal.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// Grows with each change of the certificate or the bundle.
    pub generation: u64,
    /// Why the last attempt to renew it failed, if it did.
    pub last_error: Option<String>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            aliases: Vec::new(),
            lifetime: Duration::from_secs(24 * 3600),
            issue_deadline: Duration::from_secs(10),
        }
    }
}

impl Store {
    /// A store over an issuer. Renewal and reload happen only while [`Store::run`] is polled.
    pub fn new(
        issuer: Arc<dyn Issuer>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        config: StoreConfig,
    ) -> Self {
        let _ = (issuer, clock, observer, config);
        todo!()
    }

    /// Renews, follows the authority and forgets, until dropped. To be spawned once, on the control runtime.
    pub async fn run(&self) {
        todo!()
    }

    /// One certificate for `identity`, issued now where there is none yet.
    pub async fn hold(&self, identity: &Identity) -> Result<Held, PkiError> {
        todo!("{identity}")
    }

    /// What is trusted now.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        todo!()
    }

    /// Grows when the bundle or a certificate changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// The time by this store's clock.
    pub fn now(&self) -> SystemTime {
        todo!()
    }

    /// Whether what a handshake proved still holds at `now`.
    pub fn still_trusted(&self, peer: &PeerCertificate, now: SystemTime) -> Trust {
        todo!("{peer:?} {now:?}")
    }

    /// All certificates held, by identity.
    pub fn report(&self) -> Vec<CertificateReport> {
        todo!()
    }
}

impl Held {
    /// Whose certificate it is.
    pub fn identity(&self) -> &Identity {
        todo!()
    }

    /// For dialling a peer that must be one of `expected`; with none, every peer is refused.
    pub fn client(&self, expected: &[Identity]) -> Arc<rustls::ClientConfig> {
        todo!("{expected:?}")
    }

    /// For accepting peers of the own trust domain or an alias.
    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        todo!()
    }

    /// Grows when this certificate or the bundle changed: what was made with an older one opens nothing new.
    pub fn generation(&self) -> u64 {
        todo!()
    }

    /// When the certificate of now ends.
    pub fn not_after(&self) -> SystemTime {
        todo!()
    }
}
