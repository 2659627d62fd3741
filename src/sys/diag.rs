//! The TCP sockets of a namespace, listed and ended through sock_diag.

use std::{io, net::SocketAddr};

use crate::{NetNs, rules::FourTuple};

/// One TCP socket of a namespace. A v4-mapped address is given as the v4 address that it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; unspecified for listeners.
    pub remote: SocketAddr,
    /// State of the connection.
    pub state: State,
    /// Its firewall mark, where the kernel tells (it needs CAP_NET_ADMIN).
    pub mark: Option<u32>,
    /// Inode of the socket; 0 once no process holds it.
    pub inode: u32,
    /// User who made it.
    pub uid: u32,
}

/// States of a TCP connection (RFC 9293 section 3.3.2, with Linux's NEW_SYN_RECV).
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

/// All TCP sockets of the namespace, listeners, half-open and time-wait ones included.
pub fn tcp_sockets(_ns: &NetNs) -> io::Result<Vec<TcpSocket>> {
    todo!()
}

/// Ends a connection at once (`SOCK_DESTROY`): its owner sees ECONNABORTED, the other end a reset. False if there is none such.
pub fn destroy(_ns: &NetNs, _connection: &FourTuple) -> io::Result<bool> {
    todo!()
}
