//! HAProxy in TCP mode: a user-space hop without TLS, the floor of what a proxy of this kind costs.

use std::{fmt::Write as _, fs, net::SocketAddr, path::Path, path::PathBuf, process::Command};

use aquifer_sys::NetNs;

use super::{Peer, PeerError, obtain};

const NAME: &str = "HAProxy";
const REMEDY: &str = "`apt-get install -y haproxy` as root";
/// Where Debian puts it: /usr/sbin is not in every user's PATH.
const BINARY: &str = "/usr/sbin/haproxy";

/// HAProxy as installed on this machine.
#[derive(Clone, Debug)]
pub struct HaProxy {
    binary: PathBuf,
    version: String,
}

/// One hop: what comes in on one address goes out to another.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it connects, once for each connection it accepted.
    pub to: SocketAddr,
    /// Threads; as many as there are cores is HAProxy's own default.
    pub threads: usize,
}

impl HaProxy {
    /// Finds Debian's package and installs it where it is missing.
    ///
    /// # Errors
    /// [`PeerError::Unavailable`] if it can't be installed, as without root or without Debian's packages.
    pub fn install() -> Result<Self, PeerError> {
        let binary = PathBuf::from(BINARY);
        if !binary.exists() {
            // A fresh machine has no lists of packages yet.
            apt(&["install", "-y", "haproxy"]).or_else(|_| {
                apt(&["update"])?;
                apt(&["install", "-y", "haproxy"])
            })?;
        }
        let banner = obtain(NAME, REMEDY, Command::new(&binary).arg("-v"))?;
        // "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"
        let version = banner.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
        Ok(Self { binary, version })
    }

    /// Its version, as in `2.6.12-1+deb12u4`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Starts one hop inside `netns`; configuration and log are written to `dir` under `name`.
    ///
    /// # Errors
    /// Those of files and processes, and [`PeerError::Ended`] where the configuration is refused or the address is taken.
    pub fn hop(&self, netns: &NetNs, dir: &Path, name: &str, hop: &Hop) -> Result<Peer, PeerError> {
        let file = dir.join(format!("{name}.cfg"));
        fs::write(&file, configuration(hop)).map_err(PeerError::io(format!("write {}", file.display())))?;
        let mut command = Command::new(&self.binary);
        // -db: in the foreground, one process, so that it is the one whose CPU time is counted.
        command.arg("-db").arg("-f").arg(&file);
        Peer::start(NAME, netns, command, dir.join(format!("{name}.log")), hop.listen)
    }
}

fn apt(arguments: &[&str]) -> Result<(), PeerError> {
    let mut command = Command::new("apt-get");
    // Another apt-get may be at work, for some other test.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120"]);
    obtain(NAME, REMEDY, command.args(arguments)).map(drop)
}

/// Stock settings besides those without which it would refuse or cut connections; nothing is logged per connection.
fn configuration(hop: &Hop) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "global\n    nbthread {threads}\n    maxconn 8000\n\
         defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n\
         listen hop\n    bind {listen}\n    maxconn 8000\n    server next {to}\n",
        threads = hop.threads,
        listen = hop.listen,
        to = hop.to,
    );
    text
}
