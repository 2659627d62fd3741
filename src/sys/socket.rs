//! Sockets inside a pod's namespace: the three listeners, and connects whose source is another's address.
//!
//! Every socket made here carries [`MARK`] and is transparent. By the mark its packets leave the pod uncaptured, by the
//! transparency packets towards it are known as ours in every state, TIME-WAIT included, where a socket has no mark any more.
//! An accepted socket inherits both from its listener, and with them TCP_NODELAY and SO_LINGER, so it needs no set-up.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::{MARK, NetNs, diag::unmapped, netns::annotate};

/// Connections that wait to be accepted. A burst of connects past it is dropped by the kernel and retried a second later;
/// 128, what others take, is too small. The kernel caps it by `net.core.somaxconn` (4096 since Linux 5.4).
const BACKLOG: i32 = 4096;

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
    pub const fn port(self) -> u16 {
        match self {
            Self::Outbound => 15001,
            Self::Inbound => 15006,
            Self::Hbone => 15008,
        }
    }
}

/// Opens a listener inside the namespace, nonblocking, on all addresses of both families (of IPv4 alone in a kernel without
/// IPv6).
///
/// What it accepts has our mark and TCP_NODELAY; on [`Listen::Outbound`] and [`Listen::Inbound`] also SO_LINGER {1, 0}, so
/// that an application's connection ends in a reset wherever the process dies before [`reset_on_close`] turned that off.
///
/// # Errors
/// EADDRINUSE if somebody in the pod holds the port; EPERM without CAP_NET_ADMIN.
pub fn listen(ns: &NetNs, which: Listen) -> io::Result<TcpListener> {
    let open = || match listen_on(which, Ipv6Addr::UNSPECIFIED.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            listen_on(which, Ipv4Addr::UNSPECIFIED.into())
        }
        result => result,
    };
    ns.run(open).map_err(|e| annotate(e, format_args!("cannot listen on port {} in the pod", which.port())))
}

fn listen_on(which: Listen, address: IpAddr) -> io::Result<TcpListener> {
    let address = SocketAddr::new(address, which.port());
    let socket = open(Domain::for_address(address))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the TIME-WAIT sockets that the last life left on the port.
    socket.set_reuse_address(true)?;
    if which != Listen::Hbone {
        reset_on_close(&socket, true)?;
    }
    if which == Listen::Outbound {
        within_the_node(&socket);
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, nonblocking.
    pub stream: TcpStream,
    /// Who calls; never v4-mapped.
    pub peer: SocketAddr,
    /// What was called: on a capturing listener the original destination; never v4-mapped.
    pub local: SocketAddr,
}

/// Accepts one connection ready for use: two system calls, all options inherited (see the module's text).
///
/// # Errors
/// `WouldBlock` if none waits; ECONNABORTED for one that ended while it waited; EMFILE and ENFILE when descriptors ran out.
pub fn accept(listener: &impl AsFd) -> io::Result<Accepted> {
    let mut storage = socket2::SockAddrStorage::zeroed();
    let mut length = storage.size_of();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `storage` is valid for writes of `length` bytes, and the kernel writes no more than that.
    let fd = unsafe {
        libc::accept4(
            listener.as_fd().as_raw_fd(),
            std::ptr::from_mut(&mut storage).cast(),
            &raw mut length,
            flags,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: accept4 has just opened this descriptor, and nobody else knows it.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: the kernel filled in an address and its length.
    let peer = unsafe { SockAddr::new(storage, length) };
    let peer = peer.as_socket().ok_or_else(|| io::Error::other("the listener is not a TCP one"))?;
    let local = stream.local_addr()?;
    Ok(Accepted { peer: unmapped(peer), local: unmapped(local), stream })
}

/// Starts a connect inside the namespace and returns the socket, nonblocking and possibly still connecting: wait until it is
/// writable, then ask [`take_error`].
///
/// With `from`, for an application of this node, the source is that address, whoever owns it, and a port of ours that is free towards `to` and for which
/// `avoid` is false. `avoid` names the source ports of captured plaintext connections from that address to `to`: the
/// application's end of a connect with such a port would be the very 4-tuple that the captured connection has, and hang.
///
/// The port is chosen here and not by the kernel. First come the ports above `ip_local_port_range`: nobody's kernel gives
/// them out and no server listens there, so a later plaintext connection of the same client is unlikely to arrive from one
/// (it would be the mirror of the same trouble). Then the odd half of the range and then the even one, since Linux prefers even
/// ports for connects.
///
/// # Errors
/// EADDRNOTAVAIL when no port was found free; what connect says else, of which ECONNREFUSED, ENETUNREACH and EHOSTUNREACH are
/// about the destination.
pub fn connect_socket(
    ns: &NetNs,
    to: SocketAddr,
    from: Option<IpAddr>,
    avoid: &dyn Fn(u16) -> bool,
) -> io::Result<TcpStream> {
    let to = match to.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), to.port()),
        IpAddr::V6(_) => to,
    };
    let Some(from) = from.map(|from| from.to_canonical()) else {
        let socket = ns.run(|| open(Domain::for_address(to)))?;
        start(&socket, to)?;
        return Ok(socket.into());
    };
    if from.is_ipv4() != to.is_ipv4() {
        let text = format!("{from} cannot call {to}: they are of different address families");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let ports = SourcePorts::new(ns.ephemeral_ports(), seed());
    ns.run(|| {
        for port in ports {
            if avoid(port) {
                continue;
            }
            let socket = open(Domain::for_address(to))?;
            // Others of ours may hold the port towards other destinations; connect checks the whole 4-tuple.
            socket.set_reuse_address(true)?;
            within_the_node(&socket);
            let source = match to {
                SocketAddr::V6(to) if let IpAddr::V6(from) = from => {
                    SocketAddrV6::new(from, port, 0, to.scope_id()).into()
                }
                _ => SocketAddr::new(from, port),
            };
            match socket.bind(&source.into()).and_then(|()| start(&socket, to)) {
                Ok(()) => return Ok(socket.into()),
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let text = format!("no free source port left to call {to} as {from}");
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text))
    })
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL))
}

/// A nonblocking TCP socket with all that every socket of ours has. Call it inside the namespace.
fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_mark(MARK)?;
    // One flag in the kernel, under two names; it also lets the socket take any source address.
    if domain == Domain::IPV6 {
        set_option(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn start(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result,
    }
}

/// Probes in each of the three groups of ports. At 95 % of them taken, all of these being taken has a chance of 1 in 500,000
/// a group; a probe costs some 10 µs, so the worst connect takes 8 ms.
const PROBES: u32 = 256;

/// Source ports in the order in which they are tried.
struct SourcePorts {
    /// First port, number of ports and distance between them, of each group.
    groups: [(u16, u32, u16); 3],
    seed: u64,
    group: usize,
    probe: u32,
}

impl SourcePorts {
    fn new((low, high): (u16, u16), seed: u64) -> Self {
        let above = u32::from(u16::MAX - high);
        let count = u32::from(high - low) + 1;
        let (odd, even) = (low | 1, low.saturating_add(low & 1));
        let odds = if odd == low { count.div_ceil(2) } else { count / 2 };
        let groups = [(high.saturating_add(1), above, 1), (odd, odds, 2), (even, count - odds, 2)];
        Self { groups, seed, group: 0, probe: 0 }
    }
}

impl Iterator for SourcePorts {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        loop {
            let (first, count, step) = *self.groups.get(self.group)?;
            if self.probe == PROBES.min(count) {
                self.group += 1;
                self.probe = 0;
                continue;
            }
            // Neighbours differ by a stride that has no factor in common with the count, so that no port comes twice and taken
            // ones do not cluster.
            let mut stride = ((self.seed >> 32) as u32 % count) | 1;
            while gcd(stride, count) != 1 {
                stride += 2;
            }
            let start = u64::from(self.seed as u32 % count);
            let index = (start + u64::from(self.probe) * u64::from(stride)) % u64::from(count);
            self.probe += 1;
            return u16::try_from(index).ok().map(|index| first + index * step);
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Spreads the ports; nothing rests on it being hard to guess, as the kernel's sequence numbers do.
fn seed() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<u64> = LazyLock::new(|| u64::from(std::process::id()) << 40);
    let step = NEXT.fetch_add(1, Ordering::Relaxed) ^ *PROCESS;
    // The finaliser of MurmurHash3, which spreads neighbouring numbers over all bits.
    let mixed = (step ^ step >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

/// Between a pod's application and its node there is no network to be careful with. Where the system's choice is BBR, its pacing
/// would cost a timer for each write, and a third of a bulk transfer's speed.
fn within_the_node(socket: &Socket) {
    // Reno is in every kernel; without it the socket works as well.
    let _ = socket.set_tcp_congestion(b"reno");
}

/// A path shorter than this stays within a data centre.
const NEAR: Duration = Duration::from_millis(1);

/// Takes a connected socket off BBR where its path is too short for it: below a millisecond BBR finds nothing that loss does not
/// tell, and its pacing costs a timer for each write. Any other choice of the system's, and BBR on longer paths, stay.
pub fn unpaced_when_near(socket: &impl AsFd) {
    let options = SockRef::from(socket);
    let paced = options.tcp_congestion().is_ok_and(|name| name.starts_with(b"bbr"));
    if paced && round_trip_time(socket).is_ok_and(|time| time < NEAR) {
        let _ = options.set_tcp_congestion(b"cubic");
    }
}

/// Whether closing this socket resets the connection (`SO_LINGER {1, 0}`) instead of ending it cleanly.
///
/// # Errors
/// None but for descriptors that are no sockets.
pub fn reset_on_close(socket: &impl AsFd, on: bool) -> io::Result<()> {
    SockRef::from(socket).set_linger(on.then_some(Duration::ZERO))
}

/// Turns on keep-alive probes: the first after `idle`, then every `interval`, dead after `count` without an answer. Whole
/// seconds, at least one.
///
/// # Errors
/// EINVAL past the kernel's bounds (32,767 s, 127 probes).
pub fn keepalive(socket: &impl AsFd, idle: Duration, interval: Duration, count: u32) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// How long sent data may stay unacknowledged before the connection is dead (`TCP_USER_TIMEOUT`); zero is the system's default.
///
/// # Errors
/// None but for descriptors that are no TCP sockets.
pub fn user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout((!timeout.is_zero()).then_some(timeout))
}

/// Takes the pending error of a socket (`SO_ERROR`), as after a nonblocking connect.
///
/// # Errors
/// None but for descriptors that are no sockets; the pending error is the value.
pub fn take_error(socket: &impl AsFd) -> io::Result<Option<io::Error>> {
    SockRef::from(socket).take_error()
}

/// Smoothed round-trip time as TCP measures it (`TCP_INFO`).
///
/// # Errors
/// None but for descriptors that are no TCP sockets.
pub fn round_trip_time(socket: &impl AsFd) -> io::Result<Duration> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is valid for writes of `length` bytes; the kernel writes at most that many.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before the call, and a structure of integers is valid with any bits.
    let info = unsafe { info.assume_init() };
    Ok(Duration::from_micros(info.tcpi_rtt.into()))
}

fn set_option(socket: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn source_ports_come_once_and_in_groups(low in 1024u16.., span: u16, seed: u64) {
            let high = low.saturating_add(span);
            let ports: Vec<u16> = SourcePorts::new((low, high), seed).collect();
            prop_assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
            let group = |port: u16| if port > high { 0 } else if port % 2 == 1 { 1 } else { 2 };
            prop_assert!(ports.iter().all(|port| *port >= low));
            prop_assert!(ports.is_sorted_by_key(|port| group(*port)));
            let all = usize::from(u16::MAX - low) + 1;
            prop_assert!(ports.len() >= all.min(PROBES as usize));
        }
    }
}
