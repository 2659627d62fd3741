//! Faults as values: what a network, a peer or an attacker does, undone when the value is dropped.

mod loss;

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aquifer_sys::{
    NetNs,
    link::{Links, Via},
};

pub use loss::Loss;

use crate::{
    bed::Bed,
    client::{CallError, Conn},
    pod::Pod,
};

/// Packets from one node to an address or network go nowhere, without a word.
#[derive(Debug)]
pub struct BlackHole {
    links: Links,
    to: IpAddr,
    prefix: u8,
}

impl BlackHole {
    /// Swallows what goes from `node` (index) to one pod on another node.
    pub fn pod(bed: &Bed, node: usize, pod: &Pod) -> Result<Vec<Self>> {
        let holes = pod.addresses().map(|to| Self::new(bed, node, to, if to.is_ipv4() { 32 } else { 128 }));
        holes.collect()
    }

    /// Swallows what goes from `node` (index) to a network more specific than a node's pod network.
    pub fn new(bed: &Bed, node: usize, to: IpAddr, prefix: u8) -> Result<Self> {
        let links = Links::open(bed.nodes()[node].ns())?;
        links.route(to, prefix, Via::Blackhole)?;
        Ok(Self { links, to, prefix })
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        // A bed that is gone took its routes along.
        let _ = self.links.route_delete(self.to, self.prefix);
    }
}

/// A cable pulled at the far end: the near end keeps its addresses and routes and hears nothing.
#[derive(Debug)]
pub struct Unplugged {
    links: Links,
    port: String,
}

impl Unplugged {
    /// Cuts a whole node (index) from the others.
    pub fn node(bed: &Bed, node: usize) -> Result<Self> {
        Self::new(bed.switch(), &format!("node{}", node + 1))
    }

    /// Cuts a pod from its node.
    pub fn pod(pod: &Pod) -> Result<Self> {
        let (ns, port) = pod.cable();
        Self::new(ns, port)
    }

    fn new(ns: &NetNs, port: &str) -> Result<Self> {
        let links = Links::open(ns)?;
        links.down(port).with_context(|| format!("cannot unplug {port}"))?;
        Ok(Self { links, port: port.into() })
    }
}

impl Drop for Unplugged {
    fn drop(&mut self) {
        // A pod that is gone took its cable along.
        let _ = self.links.up(&self.port);
    }
}

/// How the other side dealt with a caller that does not keep to the protocol.
#[derive(Debug)]
pub struct Treatment {
    /// What ended the connection; `None` where it still stood when the time was over.
    pub end: Option<CutBy>,
    /// From connect to that end.
    pub after: Duration,
    /// What the other side sent before it.
    pub answer: Vec<u8>,
}

/// How a connection came to its end.
#[derive(Debug)]
pub enum CutBy {
    /// An end of file.
    End,
    /// A reset, or another error.
    Error(CallError),
}

impl Pod {
    /// Sends bytes that mean nothing, many as an endless stream would, and tells how that was taken.
    pub fn send_garbage(&self, to: SocketAddr, limit: Duration) -> Result<Treatment, CallError> {
        let start = Instant::now();
        let mut conn = self.connect_within(to, limit)?;
        // Not the first bytes of a TLS record (22, 3), nor of HTTP.
        let garbage: Vec<u8> =
            (0..64 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect();
        match conn.send(&garbage) {
            // Cut before all of it was sent: the end below says how.
            Ok(()) | Err(CallError::Reset { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(watch(conn, start))
    }

    /// Connects, sends `prologue` and then nothing for as long as `limit`.
    pub fn stay_silent(
        &self,
        to: SocketAddr,
        prologue: &[u8],
        limit: Duration,
    ) -> Result<Treatment, CallError> {
        let start = Instant::now();
        let mut conn = self.connect_within(to, limit)?;
        conn.send(prologue)?;
        Ok(watch(conn, start))
    }

    /// Sends `bytes` one at a time with a pause between them: a handshake that takes for ever.
    pub fn send_slowly(
        &self,
        to: SocketAddr,
        bytes: &[u8],
        pause: Duration,
        limit: Duration,
    ) -> Result<Treatment, CallError> {
        let start = Instant::now();
        let conn = self.connect_within(to, limit)?;
        let mut writer = conn.stream().try_clone().map_err(CallError::Other)?;
        let bytes = bytes.to_vec();
        let sender = thread::spawn(move || -> io::Result<()> {
            for byte in bytes {
                writer.write_all(&[byte])?;
                // The pause is the fault itself, not a wait for something.
                thread::sleep(pause);
            }
            Ok(())
        });
        let treatment = watch(conn, start);
        // Writing into a connection that was cut is an error that the treatment tells already.
        if treatment.end.is_some() {
            let _ = sender.join();
        }
        Ok(treatment)
    }
}

/// Reads until the connection ends or its patience does.
fn watch(mut conn: Conn, start: Instant) -> Treatment {
    let (end, answer) = match conn.receive_to_end() {
        Ok(answer) => (Some(CutBy::End), answer),
        Err(CallError::TimedOut { .. }) => (None, Vec::new()),
        Err(error) => (Some(CutBy::Error(error)), Vec::new()),
    };
    Treatment { end, after: start.elapsed(), answer }
}
