//! A certificate authority for one run of the bench, for peers that are not given Aquifer's own.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use aquifer_integration::peers::envoy::Tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// A root with its key, in memory; what it issues is written to a directory.
pub(crate) struct Authority<'a> {
    root: CertifiedIssuer<'static, KeyPair>,
    dir: &'a Path,
}

impl<'a> Authority<'a> {
    /// Makes a P-256 root and writes its certificate to `dir`.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn create(dir: &'a Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "the bench's peers");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
        let authority = Self { root, dir };
        authority.write("root-cert.pem", &authority.root.pem())?;
        Ok(authority)
    }

    /// Issues a certificate for a SPIFFE identity, good for both ends of a tunnel, as files called after `name`.
    ///
    /// # Errors
    /// Where the identity is no URI or a file cannot be written.
    pub(crate) fn issue(&self, name: &str, identity: &str) -> Result<Tls> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().context("a SPIFFE identity")?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf = params.signed_by(&key, &self.root)?;
        let (chain_file, key_file) = (format!("{name}-chain.pem"), format!("{name}-key.pem"));
        self.write(&chain_file, &leaf.pem())?;
        self.write(&key_file, &key.serialize_pem())?;
        Ok(Tls {
            chain: self.dir.join(chain_file),
            key: self.dir.join(key_file),
            roots: self.dir.join("root-cert.pem"),
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
