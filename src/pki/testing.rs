//! What the tests share: authorities of every shape, a clock that is set by hand, and handshakes in memory.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aquifer_model::{Identity, TrustDomain};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, RsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use crate::Clock;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A clock that moves only when told.
pub(crate) struct HandClock(Mutex<SystemTime>);

impl HandClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(SystemTime::now())))
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    pub(crate) fn set_back(&self, by: Duration) {
        *self.0.lock().unwrap() -= by;
    }
}

impl Clock for HandClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::default()
}

pub(crate) fn identity(account: &str) -> Identity {
    Identity::new(domain(), "shop", account)
}

/// The kinds of key that a CA may have, each with every way to write it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyForm {
    P256Pkcs8,
    P256Sec1,
    P384Pkcs8,
    P384Sec1,
    P521Sec1,
    RsaPkcs8,
    RsaPkcs1,
}

pub(crate) const KEY_FORMS: [KeyForm; 7] = [
    KeyForm::P256Pkcs8,
    KeyForm::P256Sec1,
    KeyForm::P384Pkcs8,
    KeyForm::P384Sec1,
    KeyForm::P521Sec1,
    KeyForm::RsaPkcs8,
    KeyForm::RsaPkcs1,
];

impl KeyForm {
    /// A new key as PEM.
    pub(crate) fn generate(self) -> String {
        let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::generate(algorithm).unwrap();
        let sec1 = |pair: EcdsaKeyPair| pem("EC PRIVATE KEY", pair.private_key().as_der().unwrap().as_ref());
        let pkcs8 = |pair: EcdsaKeyPair| pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
        let rsa = || RsaKeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap().as_ref().to_vec();
        match self {
            Self::P256Pkcs8 => pkcs8(ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)),
            Self::P256Sec1 => sec1(ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)),
            Self::P384Pkcs8 => pkcs8(ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)),
            Self::P384Sec1 => sec1(ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)),
            Self::P521Sec1 => sec1(ecdsa(&signature::ECDSA_P521_SHA512_ASN1_SIGNING)),
            Self::RsaPkcs8 => pem("PRIVATE KEY", &rsa()),
            Self::RsaPkcs1 => pem("RSA PRIVATE KEY", pkcs1_of(&rsa())),
        }
    }
}

/// A CA: a root, or signed by one.
pub(crate) struct TestCa {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key_pem: String,
    pub(crate) params: CertificateParams,
}

impl TestCa {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, KeyForm::P256Pkcs8, |_| {})
    }

    pub(crate) fn root_with(name: &str, form: KeyForm, adjust: impl FnOnce(&mut CertificateParams)) -> Self {
        let key_pem = form.generate();
        let mut params = ca_params(name);
        adjust(&mut params);
        let certificate = params.self_signed(&KeyPair::from_pem(&key_pem).unwrap()).unwrap().der().clone();
        Self { certificate, key_pem, params }
    }

    pub(crate) fn intermediate(&self, name: &str, form: KeyForm) -> Self {
        let key_pem = form.generate();
        let params = ca_params(name);
        let key = KeyPair::from_pem(&key_pem).unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap().der().clone();
        Self { certificate, key_pem, params }
    }

    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A leaf as one would have it, then adjusted.
    pub(crate) fn leaf(
        &self,
        uri: &str,
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + 24 * HOUR).into();
        adjust(&mut params);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn issuer(&self) -> rcgen::Issuer<'_, KeyPair> {
        rcgen::Issuer::from_params(&self.params, KeyPair::from_pem(&self.key_pem).unwrap())
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Istio");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + 1000 * 24 * HOUR).into();
    params
}

/// Writes a CA's folder. `None` leaves the chain's file out.
pub(crate) fn write_folder(dir: &Path, ca: &TestCa, chain: Option<&[&TestCa]>, roots: &[&TestCa]) {
    let join = |all: &[&TestCa]| all.iter().map(|c| c.pem()).collect::<String>();
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("ca-key.pem"), &ca.key_pem).unwrap();
    fs::write(dir.join("ca-cert.pem"), ca.pem()).unwrap();
    fs::write(dir.join("root-cert.pem"), join(roots)).unwrap();
    match chain {
        Some(chain) => fs::write(dir.join("cert-chain.pem"), join(chain)).unwrap(),
        None => drop(fs::remove_file(dir.join("cert-chain.pem"))),
    }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The key inside a PKCS#8 document: the element after version and algorithm.
fn pkcs1_of(pkcs8: &[u8]) -> &[u8] {
    let (document, _) = element(pkcs8);
    let (_version, rest) = element(document);
    let (_algorithm, rest) = element(rest);
    element(rest).0
}

/// Content of the first DER element, and what follows it.
pub(crate) fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, header) = match der[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7f);
            let length = der[2..2 + bytes].iter().fold(0, |l, b| l << 8 | usize::from(*b));
            (length, 2 + bytes)
        }
    };
    (&der[header..header + length], &der[header + length..])
}

/// Which side ended a handshake, and why.
#[derive(Debug)]
pub(crate) enum Refused {
    Client(rustls::Error),
    Server(rustls::Error),
}

/// A whole handshake, with the tickets that follow it, in memory.
pub(crate) fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Refused> {
    let name = ServerName::from(std::net::IpAddr::from([192, 0, 2, 7]));
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() || server.wants_write() {
        bytes.clear();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = &bytes[..];
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets().map_err(Refused::Server)?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = &bytes[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets().map_err(Refused::Client)?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

/// No eight bytes of a secret appear in any way that Debug writes bytes.
pub(crate) fn assert_clean(printed: &str, secret: &[u8]) {
    for window in secret.windows(8) {
        let list = window.iter().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
        let hex = crate::certificate::hex(window);
        assert!(!printed.contains(&list) && !printed.contains(&hex), "{printed}");
        if let Ok(text) = std::str::from_utf8(window) {
            assert!(text.chars().any(|c| !c.is_ascii_graphic()) || !printed.contains(text), "{printed}");
        }
    }
}
