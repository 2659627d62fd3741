//! A use of an identity's certificate; while one lives, the certificate is renewed.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aquifer_model::Identity;
use arc_swap::ArcSwap;

use super::credential::Credential;
use super::entry::Entry;

/// A use of an identity's certificate. Clones are cheap; when the last is dropped, the certificate is forgotten.
#[derive(Clone)]
pub struct Held {
    entry: Arc<Entry>,
    credential: Arc<ArcSwap<Credential>>,
}

impl Held {
    pub(super) fn new(entry: Arc<Entry>, credential: Arc<ArcSwap<Credential>>) -> Self {
        Self { entry, credential }
    }

    #[cfg(test)]
    pub(super) fn credential(&self) -> Arc<Credential> {
        self.credential.load_full()
    }

    /// Whose certificate it is.
    pub fn identity(&self) -> &Identity {
        &self.entry.identity
    }

    /// For dialling a peer that must be one of `expected`, in any order; with none, every peer is refused. The same
    /// configuration comes back until certificate or bundle change, so that sessions are resumed.
    pub fn client(&self, expected: &[Identity]) -> Arc<rustls::ClientConfig> {
        self.credential.load().client(expected)
    }

    /// For accepting peers of the own trust domain or an alias. The same configuration comes back until certificate or
    /// bundle change.
    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.credential.load().server)
    }

    /// Grows when this certificate or the bundle changed: what was made with an older one opens nothing new.
    pub fn generation(&self) -> u64 {
        self.credential.load().generation
    }

    /// When the certificate of now ends.
    pub fn not_after(&self) -> SystemTime {
        self.credential.load().certificate.not_after
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credential = self.credential.load();
        f.debug_struct("Held")
            .field("identity", &self.entry.identity)
            .field("generation", &credential.generation)
            .field("certificate", &credential.certificate)
            .finish()
    }
}
