//! Certificates from the mesh's controller: Istio's certificate service over TLS, with the node's own token.

mod link;

use std::sync::Arc;
use std::time::SystemTime;

use aquifer_model::Identity;
use prost_types::{Struct, Value, value::Kind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::watch;

use crate::{Authority, BoxFuture, CaError, Issued, Issuer, IssuerId, Validity};
pub use link::{Controller, Link, SIGNER};

/// Messages of Istio's certificate service.
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated from proto/ca.proto")]
pub mod proto {
    tonic::include_proto!("istio.v1.auth");
}

/// The key in a request's metadata under which a node names the identity that it asks for.
pub const IMPERSONATED: &str = "ImpersonatedIdentity";

/// Certificates of a chain at most.
const MAX_CHAIN: usize = 16;

/// The certificate service of a controller.
#[derive(Clone, Debug)]
pub struct RemoteIssuer {
    link: Arc<Link>,
}

impl RemoteIssuer {
    /// Asks over a link.
    pub fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    async fn ask(&self, identity: &Identity, validity: Validity) -> Result<Issued, CaError> {
        let key = Issued::fresh_key()?;
        let now = SystemTime::now();
        let seconds = validity.not_after.duration_since(now).unwrap_or_default().as_secs();
        let name = Value { kind: Some(Kind::StringValue(identity.to_string())) };
        let request = proto::IstioCertificateRequest {
            csr: request(&key)?,
            validity_duration: i64::try_from(seconds).unwrap_or(i64::MAX),
            metadata: Some(Struct { fields: [(IMPERSONATED.to_owned(), name)].into() }),
        };
        let channel = self.link.channel();
        let mut client = proto::istio_certificate_service_client::IstioCertificateServiceClient::new(channel);
        let request = self.link.signed(request)?;
        let answer = client.create_certificate(request).await.map_err(|status| self.link.refused(&status))?;
        let chain = chain(&answer.into_inner().cert_chain, &self.link.authority().borrow())?;
        let issuer = chain.first().and_then(|leaf| IssuerId::of_leaf(leaf));
        Ok(Issued { chain, key, issuer })
    }
}

impl Issuer for RemoteIssuer {
    fn issue<'a>(
        &'a self,
        identity: &'a Identity,
        validity: Validity,
    ) -> BoxFuture<'a, Result<Issued, Arc<CaError>>> {
        Box::pin(async move { self.ask(identity, validity).await.map_err(Arc::new) })
    }

    fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        self.link.authority()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), Arc<CaError>>> {
        Box::pin(async move { self.link.refresh().await.map_err(Arc::new) })
    }
}

/// A request (PKCS#10) for the key; it names nobody, since the authority decides who it is for.
fn request(key: &PrivateKeyDer<'static>) -> Result<String, CaError> {
    let failed = |_| CaError::Crypto("make a certificate signing request");
    let key = rcgen::KeyPair::try_from(key).map_err(failed)?;
    let params = rcgen::CertificateParams::default();
    params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)
}

/// The chain of an answer, without the roots at its end, which the bundle has.
fn chain(pems: &[String], authority: &Authority) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let unusable = |why: &str| CaError::Unusable(why.to_owned());
    if pems.len() > MAX_CHAIN {
        return Err(CaError::Unusable(format!("its chain has more than {MAX_CHAIN} parts")));
    }
    let mut chain = Vec::new();
    for pem in pems {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            chain.push(certificate.map_err(|_| unusable("its chain is no PEM"))?);
            if chain.len() > MAX_CHAIN {
                return Err(CaError::Unusable(format!("its chain has more than {MAX_CHAIN} certificates")));
            }
        }
    }
    // The leaf always stays; of the rest, a root is one that the bundle knows by name and key.
    let is_root = |certificate: &CertificateDer<'_>| {
        crate::TrustBundle::new(std::slice::from_ref(certificate))
            .is_ok_and(|one| one.roots().iter().all(|root| authority.bundle.contains(root.id)))
    };
    let mut index = 0;
    chain.retain(|certificate| {
        index += 1;
        index == 1 || !is_root(certificate)
    });
    if chain.is_empty() { Err(unusable("its chain is empty")) } else { Ok(chain) }
}
