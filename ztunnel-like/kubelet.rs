//! Probes of the kubelet: the one caller without an identity that no policy keeps out, since Kubernetes itself is asking.
//!
//! A probe comes in plaintext from an address of the node, as a call of any other process of the node would. The kernel tells them
//! apart: a probe's socket is held by the process that serves kubelet's own port. So nothing is opened to other processes of the
//! node, and no rule has to stand in its network namespace.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aquifer_sys::rules::FourTuple;
use aquifer_sys::{NetNs, diag, owner};
use tracing::warn;

use crate::config::Origin;

/// Port of kubelet's API on each node.
const PORT: u16 = 10250;
/// The first process of the machine: its network namespace is the node's.
const HOST: &str = "/proc/1/ns/net";
/// Pause between two searches for kubelet, which cost a look at all processes.
const SEARCH: Duration = Duration::from_secs(1);

/// How long the end of a connection is waited for that is about to be closed: longer than an acknowledgement is put off.
const CLOSING: Duration = Duration::from_millis(250);
/// How long a connection that nobody has closed is looked at: who closes it has let go of it a moment before the kernel says so, and
/// on a busy machine may stop in between.
const LETTING_GO: Duration = Duration::from_millis(20);
/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

/// What a flow record names as the reason of a probe's permit.
pub(crate) const REASON: &str = "kubelet probe";

/// Who made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The node's kubelet.
    Kubelet,
    /// Somebody of this node who has closed it since, so that nobody can tell who it was: a TCP probe does so at once.
    Gone,
    /// Anybody else.
    Other,
}

/// Finds out whether the node's kubelet made a connection.
#[derive(Debug)]
pub(crate) struct Kubelet {
    host: NetNs,
    port: u16,
    found: Mutex<Found>,
}

/// The process that is kubelet, and when it was last looked for.
#[derive(Debug, Default)]
struct Found {
    pid: Option<u32>,
    searched: Option<Instant>,
}

impl Kubelet {
    /// The node's kubelet; there is none where no cluster is.
    pub(crate) fn of(origin: &Origin) -> Option<Self> {
        match origin {
            Origin::Folder { .. } => None,
            Origin::Controller { .. } => match NetNs::open(HOST.as_ref()) {
                Ok(host) => Some(Self::in_namespace(host, PORT)),
                Err(error) => {
                    warn!(%error, "the node's network namespace cannot be opened: kubelet's probes are not told from other calls");
                    None
                }
            },
        }
    }

    fn in_namespace(host: NetNs, port: u16) -> Self {
        Self { host, port, found: Mutex::default() }
    }

    /// Who made this connection. Blocks for about a millisecond where it is kubelet; for tens of them where it is not, kubelet has to be
    /// found first, or the caller is about to go.
    pub(crate) fn caller(&self, client: SocketAddr, server: SocketAddr) -> io::Result<Caller> {
        let wanted = FourTuple { local: client, remote: server };
        let Some(socket) = self.socket(wanted)? else { return Ok(Caller::Other) };
        if socket.inode != 0 && socket.uid == 0 && self.holds(socket.inode)? {
            return Ok(Caller::Kubelet);
        }
        // A socket that is being closed has its inode until the pod's end has acknowledged that, which TCP may put off, and whoever
        // closes it was woken.
        let asked = Instant::now();
        loop {
            let Some(socket) = self.socket(wanted)? else { return Ok(Caller::Other) };
            let patience = if socket.state == diag::State::Established { LETTING_GO } else { CLOSING };
            if socket.inode == 0 {
                return Ok(Caller::Gone);
            } else if asked.elapsed() >= patience {
                return Ok(Caller::Other);
            }
            sleep(LOOK);
        }
    }

    /// The node's end of a connection, also where it is closed already.
    fn socket(&self, wanted: FourTuple) -> io::Result<Option<diag::TcpSocket>> {
        let sockets = diag::on_ports(&self.host, wanted.local.port(), Some(wanted.remote.port()))?;
        Ok(sockets.into_iter().find(|it| it.four_tuple() == wanted))
    }

    /// Whether kubelet holds a socket.
    fn holds(&self, inode: u32) -> io::Result<bool> {
        // One look at a time, and who waits has its answer from it.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = found.pid
            && owner::holds(pid, inode).unwrap_or(false)
        {
            return Ok(true);
        }
        if found.searched.is_some_and(|at| at.elapsed() < SEARCH) {
            return Ok(false);
        }
        found.searched = Some(Instant::now());
        found.pid = self.search()?;
        Ok(found.pid.is_some_and(|pid| owner::holds(pid, inode).unwrap_or(false)))
    }

    /// The process that serves kubelet's port.
    fn search(&self) -> io::Result<Option<u32>> {
        let listener = diag::on_ports(&self.host, self.port, None)?
            .into_iter()
            .find(|it| it.state == diag::State::Listen);
        listener.map_or(Ok(None), |listener| owner::of_machine(listener.inode))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_connections_of_the_process_that_serves_its_port_are_its_own() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("AQUIFER_NO_SKIP").is_none(), "this test needs root");
            return;
        }
        let (serving, application) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let server = application.local_addr().unwrap();
        let port = serving.local_addr().unwrap().port();
        let kubelet = Kubelet::in_namespace(NetNs::current().unwrap(), port);

        // This process serves the port. Another one calls.
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; echo called; read -r _", server.port());
        let mut other = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_stream, foreign) = application.accept().unwrap();
        assert_eq!(
            kubelet.caller(foreign, server).unwrap(),
            Caller::Other,
            "another process was taken for kubelet"
        );
        other.kill().unwrap();
        other.wait().unwrap();

        let own = TcpStream::connect(server).unwrap();
        let client = own.local_addr().unwrap();
        assert_eq!(kubelet.caller(client, server).unwrap(), Caller::Kubelet);
        // Closed by one end alone, as the other still has it in its hands.
        drop(own);
        assert_eq!(kubelet.caller(client, server).unwrap(), Caller::Gone);
        assert_eq!(kubelet.caller("192.0.2.1:4711".parse().unwrap(), server).unwrap(), Caller::Other);
    }
}
