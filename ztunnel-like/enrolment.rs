//! An enrolment as a plain value: it belongs to no runtime until it is adopted, and can cross a Unix socket.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use aquifer_model::PodUid;
use aquifer_sys::NetNs;
use aquifer_sys::socket::Listen;
use nix::sys::socket::{self, Shutdown, sockopt};
use serde::{Deserialize, Serialize};

/// A pod's place in the mesh on this node: its namespace, the listeners in it, and which rules are ours.
#[derive(Debug)]
pub struct Enrolment {
    /// Which incarnation of the pod.
    pub uid: PodUid,
    /// Its network namespace.
    pub netns: NetNs,
    /// Where the namespace was found, for `--leave` without a running node.
    pub path: PathBuf,
    /// Generation of the rules laid in the namespace; only the process that holds it removes them.
    pub generation: u64,
    /// Captured outbound connections (15001).
    pub outbound: TcpListener,
    /// Captured plaintext inbound connections (15006).
    pub inbound: TcpListener,
    /// Tunnels (15008).
    pub hbone: TcpListener,
}

/// The part of an [`Enrolment`] that is text; beside it go four descriptors: namespace, 15001, 15006, 15008.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRecord {
    /// Which incarnation of the pod.
    pub uid: String,
    /// Path of the namespace.
    pub path: PathBuf,
    /// Generation of the rules.
    pub generation: u64,
}

/// Descriptors beside an [`EnrolmentRecord`].
pub const DESCRIPTORS: usize = 4;

impl Enrolment {
    /// Opens the three listeners inside the namespace. Nothing is captured yet.
    ///
    /// # Errors
    /// The namespace cannot be entered, or another process holds one of the ports in it.
    pub fn prepare(uid: PodUid, netns: NetNs, path: PathBuf, generation: u64) -> io::Result<Self> {
        let listen = |which: Listen| {
            aquifer_sys::socket::listen(&netns, which)
                .map_err(|error| io::Error::new(error.kind(), format!("port {}: {error}", which.port())))
        };
        let (outbound, inbound, hbone) =
            (listen(Listen::Outbound)?, listen(Listen::Inbound)?, listen(Listen::Hbone)?);
        Ok(Self { uid, netns, path, generation, outbound, inbound, hbone })
    }

    /// Closes the three ports, also for other processes that hold copies: who connects now is refused at once, and does
    /// not wait in a queue that nobody serves.
    pub fn stop_listening(&self) {
        for listener in [&self.outbound, &self.inbound, &self.hbone] {
            // It fails only for a port that is closed already.
            socket::shutdown(listener.as_raw_fd(), Shutdown::Read).ok();
        }
    }

    /// Whether all three ports are open.
    pub fn listens(&self) -> bool {
        [&self.outbound, &self.inbound, &self.hbone]
            .iter()
            .all(|listener| socket::getsockopt(*listener, sockopt::AcceptConn).unwrap_or(false))
    }

    /// The text half.
    pub fn record(&self) -> EnrolmentRecord {
        EnrolmentRecord { uid: self.uid.to_string(), path: self.path.clone(), generation: self.generation }
    }

    /// The descriptor half, in the order of [`EnrolmentRecord`].
    pub fn descriptors(&self) -> [BorrowedFd<'_>; DESCRIPTORS] {
        [self.netns.as_fd(), self.outbound.as_fd(), self.inbound.as_fd(), self.hbone.as_fd()]
    }

    /// Puts the halves together again.
    ///
    /// # Errors
    /// The number of descriptors is wrong, or the first is no network namespace.
    pub fn from_parts(record: EnrolmentRecord, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let count = descriptors.len();
        let [netns, outbound, inbound, hbone] =
            <[OwnedFd; DESCRIPTORS]>::try_from(descriptors).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "enrolment of pod {} came with {count} descriptors instead of {DESCRIPTORS}",
                        record.uid
                    ),
                )
            })?;
        Ok(Self {
            uid: PodUid::new(record.uid),
            netns: NetNs::from_fd(netns)?,
            path: record.path,
            generation: record.generation,
            outbound: outbound.into(),
            inbound: inbound.into(),
            hbone: hbone.into(),
        })
    }
}
