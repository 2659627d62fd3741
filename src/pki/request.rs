//! A certificate authority in memory, and the rule by which it signs what others ask for.

use std::path::Path;
use std::sync::Arc;

use aquifer_model::{Identity, TrustDomain};
use rustls::pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::local::{CaFiles, Material};
use crate::{Authority, CaError, Issued, Validity};

/// Bytes of a request at most; one with an RSA key of 8192 bits has 2 KiB.
const MAX_REQUEST: usize = 16 * 1024;

/// Bits of an RSA key. Shorter ones can be broken; longer ones cost whoever verifies them.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Bits of a point of P-256 or P-384, as the parser counts them.
const CURVE_BITS: [usize; 2] = [256, 384];

/// A certificate authority whose files are in memory: what it signs with, and who is trusted. No `Debug`: the key is in it.
pub struct Signer {
    material: Material,
}

/// Why a request is not signed. The fault is the caller's, except where the authority itself says so.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is no request.
    #[error("the certificate signing request cannot be read: {0}")]
    Malformed(String),
    /// Who asks does not have the key.
    #[error("the certificate signing request is not signed by its own key")]
    NotProved,
    /// Not a key that the mesh's TLS verifies.
    #[error(
        "the certificate signing request has a key of no supported kind: ECDSA on P-256 or P-384, or RSA of 2048 to 8192 bits"
    )]
    Key,
    /// The authority cannot sign.
    #[error(transparent)]
    Authority(#[from] CaError),
}

impl Signer {
    /// Understands the files and signs a certificate on trial. `place` is where they are from, for messages.
    pub fn new(files: &CaFiles, place: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        Ok(Self { material: Material::load(files, place, trust_domain)? })
    }

    /// Who is trusted, and who signs.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.material.authority
    }

    /// A certificate with a fresh key, for the authority's own process: callers know it by its identity (ours) or by its host names
    /// (Istio's).
    pub fn issue(&self, identity: &Identity, hosts: &[&str], validity: Validity) -> Result<Issued, CaError> {
        self.material.issue_for_hosts(identity, hosts, validity)
    }

    /// Signs a request (PKCS#10 in PEM, RFC 7468 §7) for `identity`. Of the request only the key counts: who may have which identity
    /// is the caller's to decide. The chain is leaf first, without roots.
    pub fn sign(
        &self,
        request: &str,
        identity: &Identity,
        validity: Validity,
    ) -> Result<Vec<CertificateDer<'static>>, RequestError> {
        self.material.certify(&public_key(request)?, identity, &[], validity).map_err(Into::into)
    }
}

/// The SubjectPublicKeyInfo of a request in DER, once it is proved that who asks has the key.
fn public_key(request: &str) -> Result<Vec<u8>, RequestError> {
    let malformed = |why: &str| RequestError::Malformed(why.to_owned());
    if request.len() > MAX_REQUEST {
        return Err(RequestError::Malformed(format!("it is longer than {MAX_REQUEST} bytes")));
    }
    let block = pem::parse(request).map_err(|_| malformed("it is no PEM"))?;
    if !matches!(block.tag(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(malformed("its PEM block is no CERTIFICATE REQUEST"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(block.contents()).map_err(|_| malformed("it is no PKCS#10"))?;
    if !rest.is_empty() {
        return Err(malformed("bytes follow it"));
    }
    let key = &request.certification_request_info.subject_pki;
    let supported = match key.parsed() {
        Ok(PublicKey::EC(point)) => CURVE_BITS.contains(&point.key_size()),
        Ok(PublicKey::RSA(key)) => RSA_BITS.contains(&key.key_size()),
        _ => false,
    };
    if !supported {
        return Err(RequestError::Key);
    }
    request.verify_signature().map_err(|_| RequestError::NotProved)?;
    Ok(key.raw.to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;
    use crate::{Side, peer};

    fn signer() -> Signer {
        let domain = TrustDomain::default();
        Signer::new(&CaFiles::generate(&domain).unwrap(), Path::new("test"), &domain).unwrap()
    }

    fn identity() -> Identity {
        Identity::new(TrustDomain::default(), "shop", "cart")
    }

    fn request(key: &KeyPair) -> String {
        CertificateParams::new(vec!["other.example".to_owned()])
            .unwrap()
            .serialize_request(key)
            .unwrap()
            .pem()
            .unwrap()
    }

    fn hour() -> Validity {
        Validity::starting(SystemTime::now(), Duration::from_secs(3600))
    }

    #[test]
    fn what_is_signed_is_the_identity_and_never_the_names_that_were_asked_for() {
        let signer = signer();
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let chain = signer.sign(&request(&key), &identity(), hour()).unwrap();
            let proved = peer(&chain, Side::Server, &signer.authority().bundle, SystemTime::now()).unwrap();
            assert_eq!(proved.identity, identity());
            assert!(!String::from_utf8_lossy(&chain[0]).contains("other.example"));
        }
    }

    #[test]
    fn another_trust_domain_is_not_signed_for() {
        let key = KeyPair::generate().unwrap();
        let foreign = Identity::new(TrustDomain::new("elsewhere").unwrap(), "shop", "cart");
        let refused = signer().sign(&request(&key), &foreign, hour());
        assert!(
            matches!(refused, Err(RequestError::Authority(CaError::ForeignIdentity { .. }))),
            "{refused:?}"
        );
    }

    #[test]
    fn a_request_without_the_key_is_refused() {
        let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut der = pem::parse(request(&one)).unwrap().into_contents();
        let theirs = other.public_key_raw();
        let at = der.windows(65).position(|window| window == one.public_key_raw()).unwrap();
        der[at..at + 65].copy_from_slice(theirs);
        let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        assert!(matches!(signer().sign(&forged, &identity(), hour()), Err(RequestError::NotProved)));
    }

    #[test]
    fn keys_that_nobody_verifies_and_garbage_are_refused() {
        let signer = signer();
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        assert!(matches!(signer.sign(&request(&key), &identity(), hour()), Err(RequestError::Key)));
        let good = request(&KeyPair::generate().unwrap());
        let cut = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
        for garbage in ["", "x", cut.as_str(), &good[..good.len() / 2], &"A".repeat(MAX_REQUEST + 1)] {
            let refused = signer.sign(garbage, &identity(), hour());
            assert!(matches!(refused, Err(RequestError::Malformed(_))), "{refused:?}");
        }
    }
}
