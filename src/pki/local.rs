//! A certificate authority that lives in a folder, in the file layout of Istio's plugged-in CA, and follows its edits.

mod der;
mod folder;
mod material;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aquifer_model::{Identity, TrustDomain};
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{Authority, BoxFuture, CaError, Issued, Issuer, TrustBundle, Validity};
pub use folder::Files as CaFiles;
use folder::Found;
pub(crate) use material::Material;

/// A CA over a folder with `root-cert.pem` (all trusted roots), `ca-cert.pem`, `ca-key.pem` and `cert-chain.pem` (may
/// be empty or absent where the CA is a root). Clones are the same CA.
#[derive(Clone)]
pub struct LocalCa {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    trust_domain: TrustDomain,
    material: ArcSwap<Material>,
    authority: watch::Sender<Arc<Authority>>,
    /// One reload at a time.
    reloading: Mutex<()>,
}

impl LocalCa {
    /// Opens the folder; where it is empty or absent, makes a root for the trust domain in it. Processes that do so at
    /// the same time get the same root. Blocks for file IO, and up to 10 s for another process that is at it.
    pub fn open_or_create(dir: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let files = folder::open_or_create(dir, trust_domain)?;
        let material = Material::load(&files, dir, trust_domain)?;
        let authority = watch::Sender::new(Arc::clone(&material.authority));
        Ok(Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                trust_domain: trust_domain.clone(),
                material: ArcSwap::from_pointee(material),
                authority,
                reloading: Mutex::new(()),
            }),
        })
    }

    /// Signs a new certificate for `identity`, with a fresh key; it never outlives the CA.
    pub fn issue(&self, identity: &Identity, validity: Validity) -> Result<Issued, CaError> {
        self.inner.material.load().issue(identity, validity)
    }

    /// The roots of now.
    pub fn roots(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.inner.material.load().authority.bundle)
    }

    /// Reads the folder again and says whether something changed. What cannot be used changes nothing: the last good
    /// state stays until the folder is whole again. Blocks for file IO.
    pub fn reload(&self) -> Result<bool, CaError> {
        self.inner.reload()
    }
}

impl Inner {
    fn reload(&self) -> Result<bool, CaError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let files = match folder::read(&self.dir)? {
            Found::Whole(files) => files,
            Found::Part(missing) => return Err(CaError::Incomplete { path: self.dir.clone(), missing }),
            Found::Nothing => {
                return Err(CaError::Incomplete {
                    path: self.dir.clone(),
                    missing: folder::REQUIRED.to_vec(),
                });
            }
        };
        if files.digest() == self.material.load().digest {
            return Ok(false);
        }
        let next = Material::load(&files, &self.dir, &self.trust_domain)?;
        let authority = Arc::clone(&next.authority);
        self.material.store(Arc::new(next));
        self.authority.send_replace(authority);
        Ok(true)
    }
}

impl Issuer for LocalCa {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        validity: Validity,
    ) -> BoxFuture<'a, Result<Issued, Arc<CaError>>> {
        Box::pin(async move { LocalCa::issue(self, identity, validity).map_err(Arc::new) })
    }

    fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        self.inner.authority.subscribe()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), Arc<CaError>>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            // The folder may be on a disk that hangs; the caller's runtime must not.
            match tokio::task::spawn_blocking(move || inner.reload()).await {
                Ok(outcome) => outcome.map(|_| ()).map_err(Arc::new),
                // Only at shutdown of the runtime.
                Err(_) => Ok(()),
            }
        })
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa")
            .field("dir", &self.inner.dir)
            .field("authority", &self.inner.material.load().authority)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
