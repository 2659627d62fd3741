//! Certificates that outlive the parent: sealed in a file, with a key that only the kernel has besides.
//!
//! The kernel's keyring of a user is one for all containers of a machine that run as that user, root too, and Kubernetes lets them ask for it
//! unless a seccomp profile forbids it: so the certificates themselves do not stand there. The file only root of the machine can read. It
//! takes both, which is what root of the machine has anyway, in the memory of this process.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aquifer_pki::SealingKey;
use aquifer_sys::keyring;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::{NodeConfig, Origin};
use crate::kept;
use crate::protocol::Secret;

/// What the file begins with; the number is that of the format.
const MAGIC: &[u8] = b"aquifer certificates 1\n";
/// Bytes of the file at most: a thousand certificates with chains of some KiB.
const MOST: u64 = 16 << 20;
/// Certificates that come in a row are written together.
const SETTLE: Duration = Duration::from_secs(1);

/// The certificates of a node by identity, as PEM.
pub(super) type Certificates = BTreeMap<String, Secret>;

/// Where a node's certificates are sealed. Without a controller there is nothing to keep: the authority is in a folder of this machine.
pub(super) struct Vault {
    path: PathBuf,
    /// What the key is called in the kernel.
    name: String,
    /// What is sealed is bound to it.
    about: Vec<u8>,
    /// As long as the longest-lived certificate.
    lifetime: Duration,
    needed: bool,
    due: Option<Instant>,
    /// Why it cannot be kept was said.
    said: bool,
}

impl Vault {
    pub(super) fn of(config: &NodeConfig) -> Self {
        let mesh = &config.mesh;
        Self {
            path: kept::certificates(&config.run_dir, &config.node),
            name: name(&config.run_dir, &config.node),
            about: format!("{}\n{}\n{}", config.node, mesh.cluster_id, mesh.trust_domain).into_bytes(),
            lifetime: config.carry.certificate_lifetime,
            needed: matches!(config.origin, Origin::Controller { .. }),
            due: None,
            said: false,
        }
    }

    /// What an earlier process of the node had. Certificates that have ended are found out by whoever uses them.
    pub(super) fn read(&self) -> Certificates {
        if !self.needed {
            return Certificates::new();
        }
        kept::sweep(&self.path);
        match self.load() {
            Ok(certificates) => {
                info!(
                    certificates = certificates.len(),
                    "an earlier process of this node kept its certificates"
                );
                certificates
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Certificates::new(),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the certificates that an earlier process kept are not used; they are had anew");
                Certificates::new()
            }
        }
    }

    fn load(&self) -> io::Result<Certificates> {
        let mut bytes = Vec::new();
        std::fs::File::open(&self.path)?.take(MOST + 1).read_to_end(&mut bytes)?;
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        if bytes.len() as u64 > MOST || !bytes.starts_with(MAGIC) {
            return Err(bad("it is not in the format of this version"));
        }
        let key = keyring::find(&self.name)?.ok_or_else(|| bad("the kernel has no key for it (any more)"))?;
        let key = SealingKey::of(&key.read()?).ok_or_else(|| bad("the kernel's key is none of ours"))?;
        let text = key.open(&self.about, bytes.split_off(MAGIC.len()));
        let text =
            text.ok_or_else(|| bad("it was sealed with another key, for another node or mesh, or changed"))?;
        serde_json::from_slice(&text).map_err(Into::into)
    }

    /// The certificates are others now.
    pub(super) fn changed(&mut self) {
        if self.needed {
            self.due.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }

    /// When they are to be written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes them, if they changed. Where the kernel keeps no key, none is in a file either.
    pub(super) fn write(&mut self, certificates: &Certificates) {
        if self.due.take().is_none() {
            return;
        }
        if certificates.is_empty() {
            remove(&self.path, &self.name);
            return;
        }
        match self.store(certificates) {
            Ok(()) => self.said = false,
            Err(error) => {
                remove(&self.path, &self.name);
                if !std::mem::replace(&mut self.said, true) {
                    warn!(%error, "certificates cannot be sealed for the next process of this node: should this one be killed while the controller is away, its pods wait for the controller; the node's pod must be allowed keyctl(2) and add_key(2), and the user must have keys left (/proc/key-users)");
                }
            }
        }
    }

    fn store(&self, certificates: &Certificates) -> io::Result<()> {
        let (key, kept) = self.key()?;
        // From the newest certificate on none lives longer.
        kept.end_after(self.lifetime)?;
        let text = serde_json::to_vec(certificates)?;
        let sealed = key.seal(&self.about, text).map_err(io::Error::other)?;
        kept::replace(&self.path, |file| {
            file.write_all(MAGIC)?;
            file.write_all(&sealed)
        })
    }

    /// The key that the kernel has, or a new one.
    fn key(&self) -> io::Result<(SealingKey, keyring::Key)> {
        if let Some(kept) = keyring::find(&self.name)?
            && let Some(key) = kept.read().ok().and_then(|bytes| SealingKey::of(&bytes))
        {
            return Ok((key, kept));
        }
        let key = SealingKey::fresh().map_err(io::Error::other)?;
        let kept = keyring::add(&self.name, key.bytes())?;
        Ok((key, kept))
    }
}

/// Takes file and key of a node away.
pub(super) fn forget(run_dir: &Path, node: &str) {
    remove(&kept::certificates(run_dir, node), &name(run_dir, node));
}

fn remove(path: &Path, name: &str) {
    kept::remove(path);
    // Where the kernel has no keyrings there is none to take away.
    if let Ok(Some(key)) = keyring::find(name) {
        key.remove().ok();
    }
}

/// The key's name in the kernel: by folder and node, as the node's lock, so that several nodes of one machine have one each.
fn name(run_dir: &Path, node: &str) -> String {
    format!("aquifer:{}/{node}", run_dir.display())
}

#[cfg(test)]
mod tests;
