//! The four files of a CA: read as one state, or made once, by whoever holds the folder's lock.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use aquifer_model::TrustDomain;
use aws_lc_rs::digest;
use nix::fcntl::{Flock, FlockArg};

use super::material;
use crate::CaError;

/// All trusted roots.
pub(super) const ROOTS: &str = "root-cert.pem";
/// The certificate that signs.
pub(super) const CERTIFICATE: &str = "ca-cert.pem";
/// Its key.
pub(super) const KEY: &str = "ca-key.pem";
/// From the signing certificate up; may be absent.
pub(super) const CHAIN: &str = "cert-chain.pem";

/// What a CA cannot be without.
pub(super) const REQUIRED: [&str; 3] = [ROOTS, CERTIFICATE, KEY];

/// 128 roots of 4 KiB, twice.
const MAX_FILE: u64 = 1 << 20;

/// A new CA is written here first, so that a full disk leaves nothing behind in the folder proper.
const DRAFT: &str = ".aquifer-draft";
/// A complete draft takes this name; from then on it will become the CA, even when the process dies in the middle.
const PENDING: &str = ".aquifer-new";

/// Making a CA takes milliseconds; who holds the lock for longer hangs.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The bytes of a CA's files, in the layout of Istio's plugged-in CA. No `Debug`: the key is in it.
pub struct Files {
    /// `root-cert.pem`: all trusted roots.
    pub roots: Vec<u8>,
    /// `ca-cert.pem`: the certificate that signs.
    pub certificate: Vec<u8>,
    /// `ca-key.pem`: its key.
    pub key: Vec<u8>,
    /// `cert-chain.pem`: from the signing certificate up. Empty where the file is absent.
    pub chain: Vec<u8>,
}

/// What is in a folder.
pub(super) enum Found {
    Nothing,
    /// Some files, without these.
    Part(Vec<&'static str>),
    Whole(Files),
}

impl Files {
    /// A new self-signed root for a trust domain.
    pub fn generate(trust_domain: &TrustDomain) -> Result<Self, CaError> {
        material::new_root(trust_domain)
    }

    /// Tells one state of the folder from another.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [&self.roots, &self.certificate, &self.key, &self.chain] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        out
    }
}

/// Reads the folder. Files that change while they are read are read again, so that an edit is seen whole or not at all
/// (of files that are replaced one after another each state in between is seen, and judged as any other).
pub(super) fn read(dir: &Path) -> Result<Found, CaError> {
    const ROUNDS: usize = 3;
    let mut last = read_once(dir)?;
    for _ in 0..ROUNDS {
        let next = read_once(dir)?;
        let same = match (&last, &next) {
            (Found::Whole(a), Found::Whole(b)) => a.digest() == b.digest(),
            (Found::Nothing, Found::Nothing) => true,
            (Found::Part(a), Found::Part(b)) => a == b,
            _ => false,
        };
        last = next;
        if same {
            break;
        }
    }
    Ok(last)
}

/// The folder's CA; a new one where there is none.
pub(super) fn open_or_create(dir: &Path, trust_domain: &TrustDomain) -> Result<Files, CaError> {
    if let Found::Whole(files) = read(dir)? {
        return Ok(files);
    }
    let at_folder = |source| CaError::Folder { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at_folder)?;
    let _lock = lock(dir, LOCK_PATIENCE)?;
    if dir.join(PENDING).exists() {
        finish(dir)?;
    }
    match read(dir)? {
        Found::Whole(files) => return Ok(files),
        Found::Part(missing) => return Err(CaError::Incomplete { path: dir.to_owned(), missing }),
        Found::Nothing => {}
    }
    draft(dir, trust_domain).inspect_err(|_| discard_draft(dir))?;
    finish(dir)?;
    match read(dir)? {
        Found::Whole(files) => Ok(files),
        Found::Part(missing) => Err(CaError::Incomplete { path: dir.to_owned(), missing }),
        Found::Nothing => Err(CaError::Incomplete { path: dir.to_owned(), missing: REQUIRED.to_vec() }),
    }
}

fn read_once(dir: &Path) -> Result<Found, CaError> {
    let roots = read_file(&dir.join(ROOTS))?;
    let certificate = read_file(&dir.join(CERTIFICATE))?;
    let key = read_file(&dir.join(KEY))?;
    let chain = read_file(&dir.join(CHAIN))?;
    Ok(match (roots, certificate, key, chain) {
        (Some(roots), Some(certificate), Some(key), chain) => {
            Found::Whole(Files { roots, certificate, key, chain: chain.unwrap_or_default() })
        }
        (None, None, None, None) => Found::Nothing,
        (roots, certificate, key, _) => {
            let there = [roots.is_some(), certificate.is_some(), key.is_some()];
            Found::Part(REQUIRED.into_iter().zip(there).filter(|(_, there)| !there).map(|(n, _)| n).collect())
        }
    })
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, CaError> {
    let failed = |source| CaError::Read { path: path.to_owned(), source };
    // Not to be hung by a FIFO in the place of a file.
    let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(CaError::TooLarge { path: path.to_owned(), limit: MAX_FILE });
    }
    Ok(Some(bytes))
}

/// The lock is on the folder itself and ends with the process, so nothing is left to clean up.
pub(super) fn lock(dir: &Path, patience: Duration) -> Result<Flock<File>, CaError> {
    let failed = |source| CaError::Folder { path: dir.to_owned(), source };
    let mut file = File::open(dir).map_err(failed)?;
    let start = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR)) => {
                if start.elapsed() >= patience {
                    return Err(CaError::Locked { path: dir.to_owned(), waited: patience });
                }
                file = back;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        }
    }
}

/// Writes a new CA beside the folder's files, and declares it complete.
fn draft(dir: &Path, trust_domain: &TrustDomain) -> Result<(), CaError> {
    discard_draft(dir);
    let draft = dir.join(DRAFT);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CaError::Write { path, source }
    };
    let files = material::new_root(trust_domain)?;
    DirBuilder::new().mode(0o700).create(&draft).map_err(failed(&draft))?;
    for (name, mode, content) in [
        (KEY, 0o600, &files.key),
        (CHAIN, 0o644, &files.chain),
        (CERTIFICATE, 0o644, &files.certificate),
        (ROOTS, 0o644, &files.roots),
    ] {
        let path = draft.join(name);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(failed(&path))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(failed(&path))?;
    }
    sync(&draft).map_err(failed(&draft))?;
    fs::rename(&draft, dir.join(PENDING)).and_then(|()| sync(dir)).map_err(failed(&draft))
}

/// Puts the files of a complete draft into their places; picks up where an earlier process stopped.
fn finish(dir: &Path) -> Result<(), CaError> {
    let pending = dir.join(PENDING);
    for name in [KEY, CHAIN, CERTIFICATE, ROOTS] {
        let (from, to) = (pending.join(name), dir.join(name));
        if !from.exists() {
            continue;
        }
        if to.exists() {
            return Err(CaError::Conflict { pending, path: to });
        }
        fs::rename(&from, &to).map_err(|source| CaError::Write { path: to, source })?;
    }
    fs::remove_dir(&pending)
        .and_then(|()| sync(dir))
        .map_err(|source| CaError::Write { path: pending, source })
}

/// Removes what a failed or killed draft left: our own names only.
fn discard_draft(dir: &Path) {
    let draft = dir.join(DRAFT);
    for name in [KEY, CHAIN, CERTIFICATE, ROOTS] {
        let _ = fs::remove_file(draft.join(name));
    }
    let _ = fs::remove_dir(draft);
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
