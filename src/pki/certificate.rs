//! A certificate with its key as an authority hands it out, and what is read from a certificate.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;

use crate::clock::from_seconds;
use crate::{CaError, IssuerId};

/// From when until when a certificate is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

/// A certificate as it came from an authority, with the key made for it.
pub struct Issued {
    /// Leaf first, then intermediates, no roots.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// Who signed it, where the authority tells.
    pub issuer: Option<IssuerId>,
}

/// What is read from a certificate: facts for checks, and texts for people.
pub(crate) struct Facts {
    pub(crate) serial: String,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// URI names; `None` is one that is no text.
    pub(crate) uris: Vec<Option<String>>,
    pub(crate) server_auth: bool,
    pub(crate) client_auth: bool,
    pub(crate) is_ca: bool,
}

impl Validity {
    /// How far back a certificate begins: clocks of peers may be late by as much.
    pub const BACKDATE: Duration = Duration::from_secs(120);

    /// Holds for `lifetime` from `now`, and begins [`Validity::BACKDATE`] earlier.
    pub fn starting(now: SystemTime, lifetime: Duration) -> Self {
        Self {
            not_before: now.checked_sub(Self::BACKDATE).unwrap_or(now),
            not_after: now.checked_add(lifetime).unwrap_or(now),
        }
    }
}

impl Issued {
    /// Makes a fresh P-256 key, as PKCS#8.
    pub fn fresh_key() -> Result<PrivateKeyDer<'static>, CaError> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_| CaError::Crypto("make a key"))?;
        Ok(PrivatePkcs8KeyDer::from(document.as_ref().to_vec()).into())
    }

    /// Chain and key as PEM, for a process that goes on with them. `None` for a key that is no PKCS#8: none of ours. The text is as secret
    /// as the key.
    pub fn to_pem(&self) -> Option<String> {
        let PrivateKeyDer::Pkcs8(key) = &self.key else { return None };
        let certificates = self.chain.iter().map(|der| pem::Pem::new("CERTIFICATE", der.as_ref()));
        let key = pem::Pem::new("PRIVATE KEY", key.secret_pkcs8_der());
        let all: Vec<_> = certificates.chain([key]).collect();
        Some(pem::encode_many_config(&all, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF)))
    }

    /// What [`Issued::to_pem`] wrote, of a controller's certificate. `None` where it is something else.
    pub fn from_pem(text: &str) -> Option<Self> {
        let chain = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
        let issuer = IssuerId::of_leaf(chain.first()?);
        Some(Self { chain, key, issuer })
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("certificates", &self.chain.len())
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Facts {
    /// Reads a certificate in DER; the error says what is wrong with it.
    pub(crate) fn of(der: &[u8]) -> Result<Self, String> {
        let certificate = parse(der)?;
        let mut uris = Vec::new();
        if let Some(names) = certificate.subject_alternative_name().map_err(|e| e.to_string())? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push(Some((*uri).to_owned())),
                    // Context tag 6: a URI that is no UTF-8.
                    GeneralName::Invalid(tag, _) if tag.0 == 6 => uris.push(None),
                    _ => {}
                }
            }
        }
        let usage = certificate.extended_key_usage().map_err(|e| e.to_string())?;
        let validity = certificate.validity();
        Ok(Self {
            serial: hex(certificate.raw_serial()),
            subject: plain(&certificate.subject().to_string()),
            issuer: plain(&certificate.issuer().to_string()),
            not_before: from_seconds(validity.not_before.timestamp()),
            not_after: from_seconds(validity.not_after.timestamp()),
            uris,
            server_auth: usage.as_ref().is_some_and(|u| u.value.server_auth),
            client_auth: usage.as_ref().is_some_and(|u| u.value.client_auth),
            is_ca: certificate.is_ca(),
        })
    }
}

/// Parses DER with nothing after it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("bytes follow the certificate".to_owned()),
        Err(error) => Err(format!("no X.509 certificate ({error})")),
    }
}

/// The subject key identifier of a certificate.
pub(crate) fn key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// The key identifier of the certificate's signer.
pub(crate) fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })
}

/// Text of a peer made fit for a log line: no control characters, at most 200 characters.
pub(crate) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_issued_survives_as_text() {
        let key = Issued::fresh_key().unwrap();
        let chain = vec![CertificateDer::from(vec![1; 700]), CertificateDer::from(vec![2])];
        let issued = Issued { chain: chain.clone(), key: key.clone_key(), issuer: None };
        let again = Issued::from_pem(&issued.to_pem().unwrap()).unwrap();
        assert_eq!((again.chain, again.key), (chain, key));
        let one = Issued { chain: Vec::new(), ..issued };
        for other in ["", "text", &one.to_pem().unwrap(), &one.to_pem().unwrap().replace("PRIVATE", "PUBLIC")]
        {
            assert!(Issued::from_pem(other).is_none());
        }
    }
}
