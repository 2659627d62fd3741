//! A certificate authority that lives in a folder, in the file layout of Istio's plugged-in CA.

use std::path::Path;
use std::sync::Arc;

use aquifer_model::{Identity, TrustDomain};
use tokio::sync::watch;

use crate::{Authority, BoxFuture, CaError, Issued, Issuer, TrustBundle, Validity};

/// A CA over a folder: `root-cert.pem`, `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`.
pub struct LocalCa {}

impl LocalCa {
    /// Opens the folder; where it is empty or absent, makes a root in it.
    pub fn open_or_create(dir: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        todo!("{dir:?} {trust_domain}")
    }

    /// Signs a new certificate for `identity`.
    pub fn issue(&self, identity: &Identity, validity: Validity) -> Result<Issued, CaError> {
        todo!("{identity} {validity:?}")
    }

    /// The roots of now.
    pub fn roots(&self) -> Arc<TrustBundle> {
        todo!()
    }

    /// Reads the folder again; says whether something changed. On an error the last good state stays.
    pub fn reload(&self) -> Result<bool, Arc<CaError>> {
        todo!()
    }
}

impl Issuer for LocalCa {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        validity: Validity,
    ) -> BoxFuture<'a, Result<Issued, Arc<CaError>>> {
        Box::pin(async move { self.issue(identity, validity).map_err(Arc::new) })
    }

    fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        todo!()
    }
}
