//! A witness outside the pods: counts what crosses an interface, by connection, so that a scenario proves which path bytes took.
//!
//! It reads packet sockets in the nodes' namespaces, below and beyond anything that Aquifer could report of itself.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};
use aquifer_sys::{NetNs, link::Capture};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{bed::Bed, pod::Pod};

/// Port that HBONE tunnels lead to.
pub const TUNNEL_PORT: u16 = 15008;

/// Most connections that are told apart; further ones count together, so that a scenario cannot fill the memory.
const FLOW_LIMIT: usize = 65_536;

/// Without a marker the headers suffice: Ethernet, IP and TCP with all options are 134 bytes. 32 MiB hold 131,072 packets.
const HEADERS: (usize, usize) = (256, 131_072);

/// With a marker whole packets are kept, up to the 64 KiB that the kernel hands over at once. 128 MiB hold 1,024.
const WHOLE: (usize, usize) = (128 << 10, 1024);

/// TCP packets and the bytes of payload in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets, also empty ones. Large ones that the kernel cuts later count once.
    pub packets: u64,
    /// Bytes of payload, without headers; retransmitted ones count again.
    pub payload: u64,
}

impl Count {
    fn add(&mut self, payload: u64) {
        self.packets += 1;
        self.payload += payload;
    }
}

/// What crossed so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By source and destination of the packets.
    pub flows: HashMap<(SocketAddr, SocketAddr), Count>,
    /// All with [`TUNNEL_PORT`] at either end.
    pub tunnel: Count,
    /// All other TCP.
    pub clear: Count,
    /// Those of connections beyond the first 65,536, which `flows` does not have.
    pub untold: Count,
    /// UDP packets.
    pub datagrams: u64,
    /// Packets in which the marker stood, tunnels included.
    pub marked: u64,
    /// Packets that the witness missed because it was too slow. A proof needs 0.
    pub missed: u64,
}

impl Seen {
    /// Payload of connections with this address at either end, in bytes.
    pub fn payload_at(&self, address: SocketAddr) -> u64 {
        self.flows
            .iter()
            .filter(|((from, to), _)| *from == address || *to == address)
            .map(|(_, count)| count.payload)
            .sum()
    }

    /// Proves that at least so many bytes crossed in tunnels, and no payload outside them.
    pub fn expect_only_tunnels(&self, at_least: u64) -> Result<()> {
        self.expect_complete()?;
        ensure!(self.clear.payload == 0, "payload crossed outside the tunnels:\n{self}");
        ensure!(self.marked == 0, "{} packets showed plaintext on the wire:\n{self}", self.marked);
        ensure!(
            self.tunnel.payload >= at_least,
            "expected at least {at_least} bytes in tunnels, but there were:\n{self}"
        );
        Ok(())
    }

    /// Proves that at least so many bytes crossed in the clear from or to this address.
    pub fn expect_clear(&self, address: SocketAddr, at_least: u64) -> Result<()> {
        self.expect_complete()?;
        ensure!(
            self.payload_at(address) >= at_least,
            "expected at least {at_least} bytes in the clear at {address}, but there were:\n{self}"
        );
        Ok(())
    }

    /// Proves that no TCP payload crossed at all.
    pub fn expect_nothing(&self) -> Result<()> {
        self.expect_complete()?;
        ensure!(self.clear.payload + self.tunnel.payload == 0, "expected silence, but there was:\n{self}");
        Ok(())
    }

    fn expect_complete(&self) -> Result<()> {
        ensure!(self.missed == 0, "the capture missed {} packets, so it proves nothing", self.missed);
        Ok(())
    }

    fn add(&mut self, frame: &[u8], marker: &[u8]) {
        let Some(packet) = Packet::parse(frame) else { return };
        let Segment { from, to, payload } = match packet {
            Packet::Datagram => {
                self.datagrams += 1;
                return;
            }
            Packet::Segment(segment) => segment,
        };
        let tunnel = from.port() == TUNNEL_PORT || to.port() == TUNNEL_PORT;
        if tunnel { &mut self.tunnel } else { &mut self.clear }.add(payload);
        if self.flows.len() < FLOW_LIMIT || self.flows.contains_key(&(from, to)) {
            self.flows.entry((from, to)).or_default().add(payload);
        } else {
            self.untold.add(payload);
        }
        if !marker.is_empty() && memchr::memmem::find(frame, marker).is_some() {
            self.marked += 1;
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut flows: Vec<_> = self.flows.iter().collect();
        flows.sort_by_key(|(addresses, count)| (std::cmp::Reverse(count.payload), **addresses));
        writeln!(f, "  in tunnels {} B, outside {} B", self.tunnel.payload, self.clear.payload)?;
        for ((from, to), count) in flows.iter().take(20) {
            writeln!(f, "  {from} -> {to}: {} packets, {} B", count.packets, count.payload)?;
        }
        if flows.len() > 20 {
            writeln!(f, "  and {} more", flows.len() - 20)?;
        }
        Ok(())
    }
}

enum Packet {
    Segment(Segment),
    Datagram,
}

struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    payload: u64,
}

impl Packet {
    /// Reads Ethernet, IP (v4 or v6 without extension headers) and TCP headers; lengths are the headers', not the frame's.
    fn parse(frame: &[u8]) -> Option<Self> {
        let word = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let ip = frame.get(14..)?;
        let (protocol, source, destination, header, length): (u8, IpAddr, IpAddr, usize, usize) =
            match word(frame, 12)? {
                0x0800 => {
                    let address = |at: usize| -> Option<Ipv4Addr> {
                        Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into())
                    };
                    let header = usize::from(ip.first()? & 0x0f) * 4;
                    (*ip.get(9)?, address(12)?.into(), address(16)?.into(), header, word(ip, 2)?.into())
                }
                0x86dd => {
                    let address = |at: usize| -> Option<Ipv6Addr> {
                        Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into())
                    };
                    let length = usize::from(word(ip, 4)?) + 40;
                    (*ip.get(6)?, address(8)?.into(), address(24)?.into(), 40, length)
                }
                _ => return None,
            };
        match protocol {
            17 => Some(Self::Datagram),
            6 => {
                let tcp = ip.get(header..)?;
                let offset = usize::from(tcp.get(12)? >> 4) * 4;
                Some(Self::Segment(Segment {
                    from: SocketAddr::new(source, word(tcp, 0)?),
                    to: SocketAddr::new(destination, word(tcp, 2)?),
                    payload: length.checked_sub(header + offset)? as u64,
                }))
            }
            _ => None,
        }
    }
}

#[derive(Debug)]
struct State {
    captures: Vec<Capture>,
    seen: Seen,
}

impl State {
    /// Reads all that waits. What an application has received was captured before, so the count is up to date after this.
    fn drain(&mut self, marker: &[u8]) -> Result<()> {
        let Self { captures, seen } = self;
        for capture in captures {
            while capture.next(|frame| seen.add(frame, marker)).is_some() {}
            seen.missed += u64::from(capture.missed().context("cannot read a capture's count")?);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Shared {
    marker: Vec<u8>,
    state: Mutex<State>,
    stop: AtomicBool,
}

/// A running capture; ends when dropped.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

impl Wire {
    /// Captures what comes in at each of these interfaces. With `both`, also what goes out.
    pub fn on(points: &[(&NetNs, &str)], both: bool, marker: &[u8]) -> Result<Self> {
        let (size, count) = if marker.is_empty() { HEADERS } else { WHOLE };
        let captures = points
            .iter()
            .map(|(ns, name)| {
                Capture::open(ns, name, both, size, count)
                    .with_context(|| format!("cannot capture on {name}"))
            })
            .collect::<Result<Vec<_>>>()?;
        let polled = captures
            .iter()
            .map(|capture| capture.as_fd().try_clone_to_owned())
            .collect::<std::io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            marker: marker.to_vec(),
            state: Mutex::new(State { captures, seen: Seen::default() }),
            stop: AtomicBool::new(false),
        });
        let reading = Arc::clone(&shared);
        let reader = thread::Builder::new().name("wire".into()).spawn(move || read(&reading, &polled))?;
        Ok(Self { shared, reader: Some(reader) })
    }

    /// What crossed so far, up to all that any application has received by now.
    pub fn seen(&self) -> Result<Seen> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.drain(&self.shared.marker)?;
        Ok(state.seen.clone())
    }

    /// What crossed since the last call of this, or since the start.
    pub fn take(&self) -> Result<Seen> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.drain(&self.shared.marker)?;
        Ok(std::mem::take(&mut state.seen))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has said so already.
            let _ = reader.join();
        }
    }
}

/// Empties the captures as they fill.
fn read(shared: &Shared, polled: &[OwnedFd]) {
    let mut waited: Vec<_> =
        polled.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    while !shared.stop.load(Ordering::Acquire) {
        if !matches!(poll(&mut waited, PollTimeout::from(50u8)), Ok(1..)) {
            continue;
        }
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.drain(&shared.marker).is_err() {
            // `seen` meets the same error and tells it.
            return;
        }
    }
}

impl Bed {
    /// Captures everything between the nodes; each packet counts once, where it arrives.
    pub fn wire(&self) -> Result<Wire> {
        self.wire_with_marker(b"")
    }

    /// As [`Bed::wire`], and looks for a text that must not be seen in the clear.
    pub fn wire_with_marker(&self, marker: &[u8]) -> Result<Wire> {
        let points: Vec<_> = self.nodes().iter().map(|node| (node.ns(), "wire0")).collect();
        Wire::on(&points, false, marker)
    }

    /// Captures the cable of one pod, both ways.
    pub fn cable(&self, pod: &Pod) -> Result<Wire> {
        Wire::on(&[pod.cable()], true, b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ipv6: bool, from: u16, to: u16, payload: usize) -> Vec<u8> {
        let mut frame = vec![0; 12];
        let length = (20 + payload) as u16;
        if ipv6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([6, 64]);
            frame.extend([1; 16]);
            frame.extend([2; 16]);
        } else {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((length + 20).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        frame.extend(from.to_be_bytes());
        frame.extend(to.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(vec![b'x'; payload]);
        frame
    }

    #[test]
    fn payload_is_counted_by_path() {
        let mut seen = Seen::default();
        seen.add(&frame(false, 40_000, 15008, 100), b"");
        seen.add(&frame(true, 15008, 40_000, 7), b"");
        seen.expect_only_tunnels(107).unwrap();
        seen.expect_only_tunnels(108).unwrap_err();
        seen.add(&frame(true, 40_001, 80, 0), b"");
        seen.expect_only_tunnels(107).unwrap();
        seen.add(&frame(false, 40_001, 80, 5), b"xx");
        seen.expect_only_tunnels(107).unwrap_err();
        seen.expect_clear("10.0.0.2:80".parse().unwrap(), 5).unwrap();
        assert_eq!((seen.clear, seen.marked), (Count { packets: 2, payload: 5 }, 1));
    }

    #[test]
    fn connections_beyond_the_limit_are_counted_together() {
        let mut seen = Seen::default();
        for port in 0..=u16::MAX {
            seen.add(&frame(false, port, 80, 1), b"");
            seen.add(&frame(false, port, 81, 1), b"");
        }
        assert_eq!(seen.flows.len(), FLOW_LIMIT);
        assert_eq!(
            seen.untold.packets + seen.flows.values().map(|count| count.packets).sum::<u64>(),
            131_072
        );
    }

    #[test]
    fn short_frames_are_passed_over() {
        let whole = frame(false, 1, 2, 0);
        let mut seen = Seen::default();
        for length in 0..whole.len() - 4 {
            seen.add(&whole[..length], b"");
        }
        assert!(seen.clear.packets <= 4 && seen.clear.payload == 0);
    }
}
