//! The TCP sockets of a namespace, listed and ended through sock_diag.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use nlink::{
    netlink::{Connection, SockDiag},
    sockdiag::{InetSocket, SocketFilter, SocketInfo, SocketState, TcpState},
};

use crate::{MARK, MARK_MASK, NetNs, netlink, rules::FourTuple};

/// One TCP socket of a namespace. A v4-mapped address is given as the v4 address that it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; unspecified for listeners.
    pub remote: SocketAddr,
    /// State of the connection.
    pub state: State,
    /// Its firewall mark, where the kernel tells (it needs CAP_NET_ADMIN, and a socket in TIME-WAIT has none).
    pub mark: Option<u32>,
    /// Inode of the socket; 0 once no process holds it.
    pub inode: u32,
    /// User who made it.
    pub uid: u32,
}

impl TcpSocket {
    /// Whether it carries our mark.
    pub fn is_ours(&self) -> bool {
        self.mark.is_some_and(|mark| mark & MARK_MASK == MARK)
    }

    /// Its two ends.
    pub fn four_tuple(&self) -> FourTuple {
        FourTuple { local: self.local, remote: self.remote }
    }
}

/// States of a TCP connection (RFC 9293 section 3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of RFC 9293")]
pub enum State {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl State {
    fn from_kernel(state: TcpState) -> Option<Self> {
        Some(match state {
            TcpState::Established => Self::Established,
            TcpState::SynSent => Self::SynSent,
            // Half-open connections are reported as either, by kernel version.
            TcpState::SynRecv | TcpState::NewSynRecv => Self::SynReceived,
            TcpState::FinWait1 => Self::FinWait1,
            TcpState::FinWait2 => Self::FinWait2,
            TcpState::TimeWait => Self::TimeWait,
            TcpState::Close => Self::Close,
            TcpState::CloseWait => Self::CloseWait,
            TcpState::LastAck => Self::LastAck,
            TcpState::Listen => Self::Listen,
            TcpState::Closing => Self::Closing,
            TcpState::BoundInactive | TcpState::Unknown => return None,
        })
    }

    /// Whether a socket in this state has a peer.
    pub fn is_connection(self) -> bool {
        !matches!(self, Self::Listen | Self::Close)
    }
}

/// All TCP sockets of the namespace, listeners, half-open and time-wait ones included.
///
/// # Errors
/// EPERM where the namespace may not be entered; else what netlink says.
pub fn tcp_sockets(ns: &NetNs) -> io::Result<Vec<TcpSocket>> {
    netlink::within(ns, async || dump_sockets().await)
}

/// The TCP sockets of the namespace with these ports, chosen by the kernel; without a remote one, of listeners alone.
///
/// # Errors
/// As [`tcp_sockets`].
pub fn on_ports(ns: &NetNs, local: u16, remote: Option<u16>) -> io::Result<Vec<TcpSocket>> {
    let filter = SocketFilter::tcp().local_port(local);
    let filter = match remote {
        Some(remote) => filter.connected().remote_port(remote),
        None => filter.listening(),
    };
    let filter = filter.build();
    netlink::within(ns, async || Ok(query(&filter).await?.iter().filter_map(decode).collect()))
}

/// The same for the namespace of the calling thread.
pub(crate) async fn dump_sockets() -> io::Result<Vec<TcpSocket>> {
    Ok(dump().await?.iter().filter_map(decode).collect())
}

/// Ends a connection at once (`SOCK_DESTROY`): its owner sees ECONNABORTED, the other end a reset. False if there is none such,
/// or it ended by itself in between.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN; EOPNOTSUPP from a kernel without CONFIG_INET_DIAG_DESTROY.
pub fn destroy(ns: &NetNs, connection: &FourTuple) -> io::Result<bool> {
    netlink::within(ns, async || {
        let mut destroyed = false;
        for socket in dump().await? {
            if decode(&socket).is_some_and(|s| s.state.is_connection() && s.four_tuple() == *connection) {
                match netlink_connection()?.destroy_tcp_socket(&socket).await {
                    Ok(()) => destroyed = true,
                    Err(error) if error.errno() == Some(libc::ENOENT) => {}
                    Err(error) => return Err(to_io(error)),
                }
            }
        }
        Ok(destroyed)
    })
}

fn netlink_connection() -> io::Result<Connection<SockDiag>> {
    Connection::<SockDiag>::new().map_err(to_io)
}

async fn dump() -> io::Result<Vec<InetSocket>> {
    query(&SocketFilter::tcp().all_states().build()).await
}

async fn query(filter: &SocketFilter) -> io::Result<Vec<InetSocket>> {
    let found = netlink_connection()?.query(filter).await.map_err(to_io)?;
    let inet = |socket| match socket {
        SocketInfo::Inet(socket) => Some(*socket),
        _ => None,
    };
    Ok(found.into_iter().filter_map(inet).collect())
}

fn decode(socket: &InetSocket) -> Option<TcpSocket> {
    let SocketState::Tcp(state) = socket.state else { return None };
    Some(TcpSocket {
        local: unmapped(socket.local),
        remote: unmapped(socket.remote),
        state: State::from_kernel(state)?,
        mark: socket.mark,
        inode: socket.inode,
        uid: socket.uid,
    })
}

/// The address without v4-mapping, flow label and scope: as packets carry it.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical(address.ip()), address.port())
}

pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn to_io(error: nlink::Error) -> io::Error {
    match error.errno() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}
