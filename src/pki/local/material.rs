//! A CA's files understood and proved to work, and what they sign.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_model::{Identity, TrustDomain};
use aws_lc_rs::digest;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer, PrivateKeyDer, alg_id, pem::PemObject};
use rustls::sign::SigningKey;

use super::der::Leaf;
use super::folder::{CERTIFICATE, CHAIN, Files, KEY, ROOTS};
use crate::certificate::{Facts, hex, key_id, parse};
use crate::verify::{Side, peer};
use crate::{Authority, CaError, Issued, IssuerId, TrustBundle, Validity};

/// Most certificates between a leaf and its root; webpki follows no more than six.
const MAX_CHAIN: usize = 8;

/// The longest URI that SPIFFE allows (SPIFFE ID §2.3).
const MAX_URI: usize = 2048;

/// A new root's life. Ten years, as Istio's own.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The ways in which a CA's key signs, the usual ones first, with what a certificate calls them.
const SCHEMES: [(SignatureScheme, AlgorithmIdentifier); 5] = [
    (SignatureScheme::RSA_PKCS1_SHA256, alg_id::RSA_PKCS1_SHA256),
    (SignatureScheme::ECDSA_NISTP256_SHA256, alg_id::ECDSA_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, alg_id::ECDSA_SHA384),
    (SignatureScheme::ECDSA_NISTP521_SHA512, alg_id::ECDSA_SHA512),
    (SignatureScheme::ED25519, alg_id::ED25519),
];

/// One good state of the folder. No `Debug`: the key is in it.
pub(crate) struct Material {
    pub(super) digest: [u8; 32],
    pub(crate) authority: Arc<Authority>,
    trust_domain: TrustDomain,
    key: Arc<dyn SigningKey>,
    /// The signing certificate's subject in DER.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    /// What goes out behind each leaf.
    intermediates: Vec<CertificateDer<'static>>,
    issuer: IssuerId,
    /// When the first certificate on the way to the root ends.
    not_after: SystemTime,
}

impl Material {
    /// Understands the files and signs a certificate on trial: what comes out of here works.
    pub(crate) fn load(files: &Files, dir: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let at = |name: &str| dir.join(name);
        let roots = certificates(&files.roots, &at(ROOTS), TrustBundle::MAX_ROOTS)?;
        let bundle =
            TrustBundle::new(&roots).map_err(|detail| CaError::Content { path: at(ROOTS), detail })?;
        let mut signing = certificates(&files.certificate, &at(CERTIFICATE), MAX_CHAIN)?;
        if signing.is_empty() {
            return Err(CaError::Content {
                path: at(CERTIFICATE),
                detail: "holds no certificate".to_owned(),
            });
        }
        let above = signing.split_off(1);
        let certificate = signing.remove(0);
        let bad = |detail| CaError::Content { path: at(CERTIFICATE), detail };
        let facts = Facts::of(&certificate).map_err(bad)?;
        if !facts.is_ca {
            return Err(bad(format!("{:?} is no CA certificate (basic constraints)", facts.subject)));
        }
        let key = private_key(&files.key, &at(KEY))?;
        let parsed = parse(&certificate).map_err(bad)?;
        let public = key.public_key().ok_or(CaError::Crypto("derive the CA's public key"))?;
        if !same_key(&public, &parsed) {
            return Err(CaError::KeyMismatch { key: at(KEY), certificate: at(CERTIFICATE) });
        }

        let chain = above.into_iter().chain(certificates(&files.chain, &at(CHAIN), MAX_CHAIN)?);
        let intermediates = intermediates(&certificate, chain, &roots);
        let parts = std::iter::once(&certificate).chain(&intermediates).map(AsRef::as_ref);
        let issuer = IssuerId::over(parts);
        let mut material = Self {
            digest: files.digest(),
            authority: Arc::new(Authority { bundle: Arc::new(bundle), issuer: Some(issuer) }),
            trust_domain: trust_domain.clone(),
            name: parsed.subject().as_raw().to_vec(),
            key_id: key_id(&parsed),
            key,
            intermediates,
            issuer,
            not_after: facts.not_after,
        };
        material.not_after = material.trial(&facts, dir)?;
        Ok(material)
    }

    /// A certificate with a fresh key.
    pub(crate) fn issue(&self, identity: &Identity, validity: Validity) -> Result<Issued, CaError> {
        self.issue_for_hosts(identity, &[], validity)
    }

    /// The same, which also names hosts: for a server that callers know by name.
    pub(crate) fn issue_for_hosts(
        &self,
        identity: &Identity,
        hosts: &[&str],
        validity: Validity,
    ) -> Result<Issued, CaError> {
        let (key, public) = fresh_pair()?;
        let chain = self.certify(&public, identity, hosts, validity)?;
        Ok(Issued { chain, key, issuer: Some(self.issuer) })
    }

    /// A certificate for a public key (SubjectPublicKeyInfo in DER); it never outlives the CA.
    pub(crate) fn certify(
        &self,
        public: &[u8],
        identity: &Identity,
        hosts: &[&str],
        validity: Validity,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        if identity.trust_domain != self.trust_domain {
            return Err(CaError::ForeignIdentity {
                identity: identity.clone(),
                own: self.trust_domain.clone(),
            });
        }
        let not_after = validity.not_after.min(self.not_after);
        if not_after <= validity.not_before + Validity::BACKDATE {
            return Err(CaError::Ended { not_after: self.not_after });
        }
        let uri = identity.to_string();
        if !uri.is_ascii() || uri.len() > MAX_URI || uri.contains(|c: char| c.is_ascii_control() || c == ' ')
        {
            return Err(CaError::Unwritable(identity.clone()));
        }
        if let Some(host) =
            hosts.iter().find(|host| host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(CaError::Unusable(format!("{host:?} is no host name")));
        }
        self.sign(public, &uri, hosts, Validity { not_before: validity.not_before, not_after })
    }

    fn sign(
        &self,
        public: &[u8],
        uri: &str,
        hosts: &[&str],
        validity: Validity,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let (signer, algorithm) = SCHEMES
            .iter()
            .find_map(|(scheme, algorithm)| Some((self.key.choose_scheme(&[*scheme])?, algorithm)))
            .ok_or(CaError::Crypto("find a way for the CA's key to sign"))?;
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(|_| CaError::Crypto("make a serial number"))?;
        // Positive, and never shortened by a leading zero.
        serial[0] = serial[0] & 0x7f | 0x40;
        let leaf = Leaf {
            serial: &serial,
            issuer: &self.name,
            issuer_key_id: self.key_id.as_deref(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            public_key: public,
            uri,
            hosts,
        };
        let leaf = CertificateDer::from(leaf.sign(&*signer, algorithm)?);
        Ok(std::iter::once(leaf).chain(self.intermediates.iter().cloned()).collect())
    }

    /// Signs a certificate and verifies it as a peer would, at a time when the CA holds; says when its path ends.
    fn trial(&self, ca: &Facts, dir: &Path) -> Result<SystemTime, CaError> {
        // A CA that has ended is found out when it is to sign; here only whether the files fit together is judged.
        let moment = SystemTime::now().clamp(ca.not_before, ca.not_after.max(ca.not_before));
        let identity = Identity::new(self.trust_domain.clone(), "aquifer-system", "trial");
        let (_, public) = fresh_pair()?;
        let validity = Validity { not_before: ca.not_before, not_after: ca.not_after };
        let chain = self.sign(&public, &identity.to_string(), &[], validity)?;
        let proved =
            peer(&chain, Side::Server, &self.authority.bundle, moment).map_err(|e| CaError::NoPath {
                certificate: dir.join(CERTIFICATE),
                roots: dir.join(ROOTS),
                detail: e.to_string(),
            })?;
        Ok(proved.not_after)
    }
}

/// A fresh key, and its public half as SubjectPublicKeyInfo in DER.
fn fresh_pair() -> Result<(PrivateKeyDer<'static>, Vec<u8>), CaError> {
    let key = Issued::fresh_key()?;
    let public = any_supported_type(&key)
        .ok()
        .and_then(|k| k.public_key().map(|p| p.to_vec()))
        .ok_or(CaError::Crypto("derive a public key"))?;
    Ok((key, public))
}

/// A new self-signed root, as files.
pub(super) fn new_root(trust_domain: &TrustDomain) -> Result<Files, CaError> {
    let failed = |_| CaError::Crypto("make a root");
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    // Told apart by people: two roots of one trust domain are met during a rotation.
    let mark = hex(&digest::digest(&digest::SHA256, key.public_key_raw()).as_ref()[..4]);
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain.as_str());
    name.push(DnType::CommonName, format!("Aquifer root {mark}"));
    params.distinguished_name = name;
    let now = SystemTime::now();
    params.not_before = (now - Validity::BACKDATE).into();
    params.not_after = (now + ROOT_LIFE).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(failed)?.pem().into_bytes();
    Ok(Files {
        roots: certificate.clone(),
        certificate,
        key: key.serialize_pem().into_bytes(),
        chain: Vec::new(),
    })
}

/// All certificates of a PEM file. Text around them is allowed, as people write it there.
pub(super) fn certificates(
    pem: &[u8],
    path: &Path,
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let bad = |detail: String| CaError::Content { path: path.to_owned(), detail };
    let mut all = Vec::new();
    for item in CertificateDer::pem_slice_iter(pem) {
        let certificate = item.map_err(|_| bad(format!("certificate {} is no valid PEM", all.len() + 1)))?;
        if all.len() == most {
            return Err(bad(format!("holds more than {most} certificates")));
        }
        all.push(certificate);
    }
    for (index, certificate) in all.iter().enumerate() {
        parse(certificate).map_err(|detail| bad(format!("certificate {}: {detail}", index + 1)))?;
    }
    Ok(all)
}

/// The one private key of a PEM file: PKCS#1, PKCS#8 or SEC1, not encrypted.
pub(super) fn private_key(pem: &[u8], path: &Path) -> Result<Arc<dyn SigningKey>, CaError> {
    let bad = |detail: &str| CaError::Content { path: path.to_owned(), detail: detail.to_owned() };
    let mut keys = PrivateKeyDer::pem_slice_iter(pem);
    let Some(first) = keys.next() else {
        return Err(bad("holds no private key; a key is a PEM block PRIVATE KEY, RSA PRIVATE KEY or \
                        EC PRIVATE KEY, not encrypted"));
    };
    // What the parser says may quote the file: it stays unsaid.
    let first = first.map_err(|_| bad("is no valid PEM"))?;
    if keys.next().is_some() {
        return Err(bad("holds more than one private key"));
    }
    any_supported_type(&first)
        .map_err(|_| bad("holds a key of no supported kind; RSA of 2048 to 8192 bits and ECDSA on P-256, P-384 or P-521 are"))
}

fn same_key(public: &[u8], certificate: &x509_parser::certificate::X509Certificate<'_>) -> bool {
    use x509_parser::prelude::FromDer;
    use x509_parser::x509::SubjectPublicKeyInfo;
    // The bits, not the wrapping: parameters of RSA keys are written in more than one way.
    SubjectPublicKeyInfo::from_der(public)
        .is_ok_and(|(_, own)| own.subject_public_key.data == certificate.public_key().subject_public_key.data)
}

/// What a peer needs between leaf and root: the signing certificate and the file's chain, without roots (Istio's
/// `cert-chain.pem` repeats both) and without doubles.
fn intermediates(
    certificate: &CertificateDer<'static>,
    chain: impl Iterator<Item = CertificateDer<'static>>,
    roots: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    let mut out: Vec<CertificateDer<'static>> = Vec::new();
    for candidate in std::iter::once(certificate.clone()).chain(chain) {
        if !roots.contains(&candidate) && !out.contains(&candidate) {
            out.push(candidate);
        }
    }
    out
}
