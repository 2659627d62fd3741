//! Where certificates come from: the one trait between the store and a certificate authority.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use aquifer_model::Identity;
use tokio::sync::watch;

use crate::{CaError, Issued, TrustBundle, Validity};

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A certificate authority as its clients see it: a folder on this machine, or a service on the network.
pub trait Issuer: Send + Sync + 'static {
    /// A new certificate with a key made for it. The authority may shorten the validity, never lengthen it.
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        validity: Validity,
    ) -> BoxFuture<'a, Result<Issued, Arc<CaError>>>;

    /// What to trust and who signs now, with each change.
    fn authority(&self) -> watch::Receiver<Arc<Authority>>;

    /// Looks whether something changed. Called about once a second; a failure is told once per state found and
    /// changes nothing.
    fn refresh(&self) -> BoxFuture<'_, Result<(), Arc<CaError>>> {
        Box::pin(async { Ok(()) })
    }
}

/// One state of an authority.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The roots that peers must chain to.
    pub bundle: Arc<TrustBundle>,
    /// Who signs now; when it changes, certificates of another issuer are replaced promptly. `None` where the
    /// authority does not tell.
    pub issuer: Option<IssuerId>,
}

/// Which certificate signs: SHA-256 over the signing certificate and the intermediates sent with each leaf.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IssuerId(pub(crate) [u8; 32]);

impl fmt::Debug for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerId({})", crate::certificate::hex(&self.0[..8]))
    }
}
