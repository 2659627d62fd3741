//! Sockets inside a pod's namespace: the three listeners and the connects whose source is another's address.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use crate::NetNs;

/// The listeners of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// Where the pod's own connections arrive, their original destination as local address.
    Outbound,
    /// Where plaintext connections to the pod arrive, their original destination as local address.
    Inbound,
    /// Where tunnels arrive.
    Hbone,
}

impl Listen {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Outbound, Self::Inbound, Self::Hbone];

    /// The port of this listener: 15001, 15006, 15008.
    pub fn port(self) -> u16 {
        match self {
            Self::Outbound => 15001,
            Self::Inbound => 15006,
            Self::Hbone => 15008,
        }
    }
}

/// Opens a listener inside the namespace.
pub fn listen(_ns: &NetNs, _which: Listen) -> io::Result<TcpListener> {
    todo!()
}

/// Starts a connect inside the namespace and returns the socket, nonblocking and possibly still connecting.
pub fn connect_socket(
    _ns: &NetNs,
    _to: SocketAddr,
    _from: Option<IpAddr>,
    _avoid: &dyn Fn(u16) -> bool,
) -> io::Result<TcpStream> {
    todo!()
}

/// Whether closing this socket resets the connection (`SO_LINGER {1, 0}`) instead of ending it cleanly.
pub fn reset_on_close(_socket: &impl AsFd, _on: bool) -> io::Result<()> {
    todo!()
}

/// Sets up an accepted socket in one call.
pub fn accepted(_socket: &impl AsFd) -> io::Result<()> {
    todo!()
}

/// Turns on keep-alive probes: the first after `idle`, then every `interval`, dead after `count` without an answer.
pub fn keepalive(_socket: &impl AsFd, _idle: Duration, _interval: Duration, _count: u32) -> io::Result<()> {
    todo!()
}

/// How long sent data may stay unacknowledged before the connection is dead (`TCP_USER_TIMEOUT`).
pub fn user_timeout(_socket: &impl AsFd, _timeout: Duration) -> io::Result<()> {
    todo!()
}

/// Takes the pending error of a socket (`SO_ERROR`), as after a nonblocking connect.
pub fn take_error(_socket: &impl AsFd) -> io::Result<Option<io::Error>> {
    todo!()
}

/// Smoothed round-trip time as TCP measures it.
pub fn round_trip_time(_socket: &impl AsFd) -> io::Result<Duration> {
    todo!()
}
