//! Other implementations for the far end of the wire: fetched, configured and run inside a pod's network namespace.
//!
//! Scenarios use them to prove that the wire is the one the others speak, the data-plane bench to compare speed. Each runs
//! as a process of its own ([`Peer`]), which lives as long as the value.

pub mod envoy;
pub mod haproxy;

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aquifer_sys::NetNs;

/// How long a peer may take from its start until it listens. Envoy needs about 0.3 s on a quiet machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often the listening sockets of a starting peer are looked at.
const START_POLL: Duration = Duration::from_millis(10);
/// How much of the end of a peer's log goes into an error.
const LOG_TAIL: usize = 2_000;

/// Why a peer is not there.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The machine lacks it and cannot get it: a scenario that needs it is skipped.
    #[error("{peer} is not available: {reason}; to get it: {remedy}")]
    Unavailable {
        /// Its name.
        peer: &'static str,
        /// What was tried and how it failed.
        reason: String,
        /// What a person can do about it.
        remedy: &'static str,
    },
    /// A file or process operation around it failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation and its object.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// It ended instead of listening: as a rule its configuration was refused.
    #[error("{peer} ended with {status} before it listened on port {port}; its log ends: {log}")]
    Ended {
        /// Its name.
        peer: &'static str,
        /// Exit status in words.
        status: String,
        /// The port that was waited for.
        port: u16,
        /// The end of its log.
        log: String,
    },
    /// It runs but does not listen.
    #[error("{peer} does not listen on port {port} after {} s; its log ends: {log}", START_LIMIT.as_secs())]
    Silent {
        /// Its name.
        peer: &'static str,
        /// The port that was waited for.
        port: u16,
        /// The end of its log.
        log: String,
    },
}

impl PeerError {
    /// Whether the peer merely cannot be had here, so that a test skips instead of failing.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// A running peer; dropping it kills the process and waits for its end.
#[derive(Debug)]
pub struct Peer {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Peer {
    /// Starts `command` inside `netns`, with both outputs in the file `log`, and waits until it listens on `listen`'s port.
    fn start(
        name: &'static str,
        netns: &NetNs,
        mut command: Command,
        log: PathBuf,
        listen: SocketAddr,
    ) -> Result<Self, PeerError> {
        let output = File::create(&log).map_err(PeerError::io(format!("create {}", log.display())))?;
        let errors = output.try_clone().map_err(PeerError::io("clone the log's descriptor"))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // A child is born in the namespace of the thread that forks it.
        let child =
            netns.run(|| command.spawn()).map_err(PeerError::io(format!("start {name} in a namespace")))?;
        let mut peer = Self { name, child, log };
        peer.await_listener(listen.port())?;
        Ok(peer)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it wrote to its log so far.
    pub fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }

    fn await_listener(&mut self, port: u16) -> Result<(), PeerError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let status = self.child.try_wait().map_err(PeerError::io(format!("wait for {}", self.name)))?;
            if let Some(status) = status {
                return Err(PeerError::Ended {
                    peer: self.name,
                    status: status.to_string(),
                    port,
                    log: self.log(),
                });
            }
            if listens(self.pid(), port) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(PeerError::Silent { peer: self.name, port, log: self.log() });
            }
            thread::sleep(START_POLL);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether anybody listens on a TCP port in the network namespace of process `pid`, by the kernel's socket lists.
fn listens(pid: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|family| {
        fs::read_to_string(format!("/proc/{pid}/net/{family}")).is_ok_and(|table| has_listener(&table, port))
    })
}

/// Looks for a listening socket in the text of /proc/net/tcp: the second column is `ADDRESS:PORT` and the fourth the state,
/// all in hexadecimal; 0A is LISTEN.
fn has_listener(table: &str, port: u16) -> bool {
    let wanted = format!("{port:04X}");
    table.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let local_port = columns.next().and_then(|local| local.rsplit(':').next());
        local_port == Some(wanted.as_str()) && columns.nth(1) == Some("0A")
    })
}

/// Where fetched peers are kept: `target/peers` of this workspace.
pub fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers")
}

/// Runs a program that fetches or installs something; its failure means that the peer is unavailable.
fn obtain(peer: &'static str, remedy: &'static str, command: &mut Command) -> Result<String, PeerError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let unavailable = |reason| PeerError::Unavailable { peer, reason, remedy };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| unavailable(format!("`{program}` cannot be run ({error})")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    Err(unavailable(format!("`{program}` failed with {}: {last}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
        0: 00000000:3AA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
        1: 0100007F:1F90 0100007F:3AA1 01 00000000:00000000 00:00000000 00000000     0\n";

    #[test]
    fn a_listener_is_told_from_a_connection() {
        assert!(has_listener(TABLE, 15_008));
        assert!(!has_listener(TABLE, 8_080), "an established connection is no listener");
        assert!(!has_listener(TABLE, 15_009), "the remote port is not looked at");
    }

    #[test]
    fn a_missing_program_makes_the_peer_unavailable_in_plain_words() {
        let error = obtain("Envoy", "install it", &mut Command::new("/nonexistent/pip")).unwrap_err();
        assert!(error.is_unavailable());
        let text = error.to_string();
        assert!(text.contains("/nonexistent/pip") && text.contains("install it"), "{text}");
    }
}
