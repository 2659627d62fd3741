//! Credentials from the mesh's own authority, or from one that the mesh knows nothing of.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use aquifer_model::{Identity, TrustDomain};
use aquifer_pki::{Issued, LocalCa, Validity};

/// A leaf with its key, and the folder whose roots it expects of others.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) issued: Issued,
    roots: PathBuf,
}

/// Issues a certificate that holds now for `identity` (`spiffe://…`), from the authority in `ca`, which is made where it
/// is not there yet.
pub(crate) fn issue(ca: &Path, identity: &str) -> Result<Credentials> {
    issue_for(ca, identity, Validity::starting(SystemTime::now(), Duration::from_secs(3600)))
}

/// As [`issue`], with a validity of the caller's choice.
pub(crate) fn issue_for(ca: &Path, identity: &str, validity: Validity) -> Result<Credentials> {
    let identity: Identity = identity.parse()?;
    let authority = LocalCa::open_or_create(ca, &TrustDomain::default())
        .with_context(|| format!("cannot open the authority in {}", ca.display()))?;
    let issued = authority.issue(&identity, validity)?;
    Ok(Credentials { issued, roots: ca.join("root-cert.pem") })
}

impl Credentials {
    /// Writes chain and key as PEM files below `dir`, named by `name`: the paths of chain, key and roots.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> Result<[PathBuf; 3]> {
        let chain: String = self.issued.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        let key = pem("PRIVATE KEY", self.issued.key.secret_der());
        let files = [dir.join(format!("{name}-chain.pem")), dir.join(format!("{name}-key.pem"))];
        for (file, text) in files.iter().zip([chain, key]) {
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let [chain, key] = files;
        Ok([chain, key, self.roots.clone()])
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}
