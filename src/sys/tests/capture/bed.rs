//! A pod and a host joined by a cable, the proxy's listeners in the pod, and a witness of what crosses the cable.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use aquifer_sys::{
    MARK, NetNs,
    link::{Capture, Links, Via, sysctl},
    rules::{self, Mode, Rules},
    socket::{self, Accepted, Listen},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};
use socket2::{Domain, SockRef, Socket, Type};

/// Until when something must have happened. Nothing here takes a thousandth of it unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// The port of the application in the pod, and of the server on the host.
pub(crate) const PORT: u16 = 8080;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn pod(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 0, 0, 2).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into(),
        }
    }

    pub(crate) fn host(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 0, 0, 1).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// The two ends of a second cable of the pod, its own first.
    pub(crate) fn beyond(self) -> (IpAddr, IpAddr) {
        let address = |last: u8| match self {
            Self::V4 => Ipv4Addr::new(10, 1, 0, last).into(),
            Self::V6 => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, last.into()).into(),
        };
        (address(1), address(2))
    }

    /// An address beyond the host that nobody has.
    pub(crate) fn service(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 96, 0, 1).into(),
            Self::V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1).into(),
        }
    }
}

pub(crate) struct Bed {
    pub(crate) pod: NetNs,
    pub(crate) host: NetNs,
}

/// A new namespace, its loopback device up.
pub(crate) fn namespace() -> NetNs {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        NetNs::current().unwrap()
    });
    let ns = made.join().unwrap();
    Links::open(&ns).unwrap().up("lo").unwrap();
    // Nobody else can have an address here, so none has to be asked after for a second before it is used.
    for interface in ["all", "default"] {
        sysctl(&ns, &format!("net.ipv6.conf.{interface}.accept_dad"), "0").unwrap();
    }
    ns
}

/// Whether an interface has its link-local address for good, without which it asks for no neighbour on behalf of others.
pub(crate) fn is_settled(ns: &NetNs, interface: &str) -> bool {
    const TENTATIVE: u8 = 0x40;
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6")).unwrap();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        let flags = u8::from_str_radix(fields[4], 16).unwrap();
        fields[0].starts_with("fe80") && fields[5] == interface && flags & TENTATIVE == 0
    })
}

impl Bed {
    pub(crate) fn new() -> Self {
        let (pod, host) = (namespace(), namespace());
        let (in_pod, on_host) = (Links::open(&pod).unwrap(), Links::open(&host).unwrap());
        in_pod.veth("eth0", &host, "eth0").unwrap();
        for family in Family::BOTH {
            let prefix = if family == Family::V4 { 24 } else { 64 };
            in_pod.address("eth0", family.pod(), prefix).unwrap();
            on_host.address("eth0", family.host(), prefix).unwrap();
        }
        in_pod.up("eth0").unwrap();
        on_host.up("eth0").unwrap();
        wait("the cable to carry", || in_pod.carries("eth0").unwrap() && on_host.carries("eth0").unwrap());
        for family in Family::BOTH {
            let anywhere = if family == Family::V4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
            in_pod.route(anywhere, 0, Via::Gateway(family.host())).unwrap();
        }
        Self { pod, host }
    }

    /// A bed whose pod is captured, generation 1.
    pub(crate) fn captured() -> (Self, Proxy) {
        let bed = Self::new();
        let proxy = Proxy::new(&bed.pod);
        bed.lay(Mode::Capture { standing: Vec::new() });
        (bed, proxy)
    }

    pub(crate) fn lay(&self, mode: Mode) {
        rules::lay(&self.pod, &Rules { generation: 1, mode }).unwrap();
    }

    /// What crosses the cable, from now on, in either direction.
    pub(crate) fn witness(&self) -> Witness {
        Witness { capture: Capture::open(&self.host, "eth0", true, 256, 4096).unwrap() }
    }
}

/// The listeners of the pod, as a proxy has them.
pub(crate) struct Proxy {
    outbound: TcpListener,
    inbound: TcpListener,
    hbone: TcpListener,
}

impl Proxy {
    pub(crate) fn new(pod: &NetNs) -> Self {
        let [outbound, inbound, hbone] = Listen::ALL.map(|which| socket::listen(pod, which).unwrap());
        Self { outbound, inbound, hbone }
    }

    pub(crate) fn listener(&self, which: Listen) -> &TcpListener {
        match which {
            Listen::Outbound => &self.outbound,
            Listen::Inbound => &self.inbound,
            Listen::Hbone => &self.hbone,
        }
    }

    /// The next connection, blocking from then on.
    pub(crate) fn accept(&self, which: Listen) -> Accepted {
        ready(self.listener(which), PollFlags::POLLIN);
        let accepted = socket::accept(self.listener(which)).unwrap();
        assert_eq!(SockRef::from(&accepted.stream).mark().unwrap(), MARK);
        block(&accepted.stream);
        accepted
    }

    /// The same without a deadline, for a thread that serves until the end.
    pub(crate) fn accept_patiently(&self, which: Listen) -> Accepted {
        loop {
            poll(&mut [PollFd::new(self.listener(which).as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)
                .unwrap();
            if let Ok(accepted) = socket::accept(self.listener(which)) {
                block(&accepted.stream);
                return accepted;
            }
        }
    }

    /// Nobody waits at any listener.
    pub(crate) fn assert_idle(&self) {
        for which in Listen::ALL {
            assert_nobody(self.listener(which));
        }
    }
}

/// A server of an application: on all addresses of both families.
pub(crate) fn serve(ns: &NetNs, port: u16) -> TcpListener {
    let listener = ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// The next connection of an application's server.
pub(crate) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    ready(listener, PollFlags::POLLIN);
    let (stream, peer) = listener.accept().unwrap();
    block(&stream);
    (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()))
}

pub(crate) fn assert_nobody(listener: &TcpListener) {
    match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => panic!("somebody has called: {other:?}"),
    }
}

/// Connects as an application does.
pub(crate) fn call(ns: &NetNs, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    call_from(ns, 0, to.into())
}

/// The same from a port of choice.
pub(crate) fn call_from(ns: &NetNs, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = ns.run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))?;
    if port != 0 {
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
    }
    let before = repeated_syns(ns);
    socket.connect_timeout(&to.into(), DEADLINE)?;
    assert_eq!(repeated_syns(ns), before, "connected to {to} only after a SYN was repeated");
    let stream = TcpStream::from(socket);
    block(&stream);
    Ok(stream)
}

/// SYN packets that were sent more than once by a namespace, ever.
fn repeated_syns(ns: &NetNs) -> u64 {
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let (_, count) = names.zip(values).find(|(name, _)| *name == "TCPSynRetrans").unwrap();
    count.parse().unwrap()
}

/// A refusal that came at once.
pub(crate) fn assert_refused(result: io::Result<TcpStream>) {
    match result {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        other => panic!("not refused: {other:?}"),
    }
}

/// Waits until a socket of ours has connected, or says why it has not.
pub(crate) fn connected(stream: TcpStream) -> io::Result<TcpStream> {
    ready(&stream, PollFlags::POLLOUT);
    match socket::take_error(&stream)? {
        Some(error) => Err(error),
        None => {
            block(&stream);
            Ok(stream)
        }
    }
}

/// Sends both ways, and checks what arrives.
pub(crate) fn exchange(a: &TcpStream, b: &TcpStream) {
    send(a, b);
    send(b, a);
}

/// Sends one way, and checks what arrives.
pub(crate) fn send(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"words").unwrap();
    let mut received = [0; 5];
    to.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"words");
}

/// Reads the end of the other side's data.
pub(crate) fn assert_ended(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// Reads a reset.
pub(crate) fn assert_reset(mut stream: &TcpStream) {
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn block(stream: &TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
}

fn ready(socket: &impl AsFd, flags: PollFlags) {
    let deadline = u16::try_from(DEADLINE.as_millis()).unwrap();
    let count = poll(&mut [PollFd::new(socket.as_fd(), flags)], deadline).unwrap();
    assert_eq!(count, 1, "nothing has happened within {DEADLINE:?}");
}

/// Waits for a condition, which is asked again every millisecond.
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < 2 * DEADLINE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A TCP packet that crossed the cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) reset: bool,
    pub(crate) payload: bool,
}

pub(crate) struct Witness {
    capture: Capture,
}

impl Witness {
    /// All TCP packets since the last time. Delivery over the cable and to the witness is immediate, so whatever was sent
    /// before the call has been seen.
    pub(crate) fn packets(&mut self) -> Vec<Packet> {
        let packets = std::iter::from_fn(|| self.capture.next(parse)).flatten().collect();
        assert_eq!(self.capture.missed().unwrap(), 0);
        packets
    }
}

fn parse(frame: &[u8]) -> Option<Packet> {
    let packet = frame.get(14..)?;
    let (source, destination, tcp): (IpAddr, IpAddr, _) = match frame.get(12..14)? {
        [0x08, 0x00] if packet[9] == 6 => {
            let address = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            (address(12), address(16), &packet[usize::from(packet[0] & 15) * 4..length])
        }
        [0x86, 0xdd] if packet[6] == 6 => {
            let address = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
            (address(8), address(24), &packet[40..])
        }
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    Some(Packet {
        source: SocketAddr::new(source, port(0)),
        destination: SocketAddr::new(destination, port(2)),
        reset: tcp[13] & 4 != 0,
        payload: tcp.len() > usize::from(tcp[12] >> 4) * 4,
    })
}
