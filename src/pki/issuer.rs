//! Where certificates come from: the one trait between the store and a certificate authority.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use aquifer_model::Identity;
use aws_lc_rs::digest;
use tokio::sync::watch;

use crate::certificate::{authority_key_id, key_id, parse};
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

/// Who signs, to be compared within one authority: for files that are read here SHA-256 over the signing certificate and the
/// intermediates sent with each leaf; for a controller, over the name and the key identifier that a leaf bears of its signer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IssuerId(pub(crate) [u8; 32]);

impl IssuerId {
    /// As the signing certificate names itself (RFC 5280 sections 4.1.2.6 and 4.2.1.2). `None` where it cannot be read.
    pub(crate) fn of_signer(certificate: &[u8]) -> Option<Self> {
        let signer = parse(certificate).ok()?;
        Some(Self::named(signer.subject().as_raw(), key_id(&signer).as_deref()))
    }

    /// As a certificate names its signer (RFC 5280 sections 4.1.2.4 and 4.2.1.1). `None` where it cannot be read.
    pub(crate) fn of_leaf(certificate: &[u8]) -> Option<Self> {
        let leaf = parse(certificate).ok()?;
        Some(Self::named(leaf.issuer().as_raw(), authority_key_id(&leaf).as_deref()))
    }

    fn named(name: &[u8], key_id: Option<&[u8]>) -> Self {
        Self::over([name, key_id.unwrap_or_default()])
    }

    /// Over parts, each with its length before it.
    pub(crate) fn over<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        Self(id)
    }
}

impl fmt::Debug for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerId({})", crate::certificate::hex(&self.0[..8]))
    }
}

#[cfg(test)]
mod tests {
    use aquifer_model::TrustDomain;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{CaFiles, Signer};

    #[test]
    fn a_leaf_names_its_signer_and_no_other_of_that_name() {
        let domain = TrustDomain::default();
        let identity = Identity::new(domain.clone(), "shop", "web");
        let made = || {
            let files = CaFiles::generate(&domain).unwrap();
            let signer = Signer::new(&files, std::path::Path::new("ca"), &domain).unwrap();
            let validity = Validity::starting(SystemTime::now(), Duration::from_secs(600));
            let leaf = signer.issue(&identity, &[], validity).unwrap().chain.remove(0);
            let own = CertificateDer::from_pem_slice(&files.certificate).unwrap();
            (IssuerId::of_signer(&own).unwrap(), IssuerId::of_leaf(&leaf).unwrap())
        };
        let ((one, of_one), (other, of_other)) = (made(), made());
        assert_eq!((one, other), (of_one, of_other));
        // Both have the same name.
        assert_ne!(one, other);
        assert!(IssuerId::of_leaf(b"none").is_none() && IssuerId::of_signer(b"none").is_none());
    }
}
