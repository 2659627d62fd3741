//! Hears that somebody changed packet rules or routing in a namespace, from the kernel.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use crate::{NetNs, ears::heard};

/// Groups of messages as bits (netlink(7)): all of nftables, and rules and routes of both families.
const RULES: u32 = 1 << (libc::NFNLGRP_NFTABLES - 1);
const ROUTING: u32 = 1 << (libc::RTNLGRP_IPV4_RULE - 1)
    | 1 << (libc::RTNLGRP_IPV4_ROUTE - 1)
    | 1 << (libc::RTNLGRP_IPV6_RULE - 1)
    | 1 << (libc::RTNLGRP_IPV6_ROUTE - 1);

/// Ears on a namespace. What changed is not told, only that something did, by whomever.
#[derive(Debug)]
pub struct Watch {
    rules: AsyncFd<OwnedFd>,
    routing: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Hears what happens from now on. Costs two descriptors, which keep the namespace alive. Must be called in a tokio runtime with IO.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN in the namespace; no descriptor is left.
    pub fn new(ns: &NetNs) -> io::Result<Self> {
        let (rules, routing) = ns.run(|| {
            Ok((open(SockProtocol::NetlinkNetFilter, RULES)?, open(SockProtocol::NetlinkRoute, ROUTING)?))
        })?;
        // SAFETY: each descriptor is owned by what it is registered with, is neither given away nor replaced, and is closed only together
        // with its registration, which goes first.
        unsafe { Ok(Self { rules: AsyncFd::register(rules)?, routing: AsyncFd::register(routing)? }) }
    }

    /// Waits until something changed since the last time. May be dropped and called again.
    pub async fn changed(&self) {
        tokio::select! {
            () = heard(&self.rules, take) => {}
            () = heard(&self.routing, take) => {}
        }
    }
}

fn open(protocol: SockProtocol, groups: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// Takes one message, and drops what it says.
fn take(socket: &OwnedFd) -> nix::Result<()> {
    match recv(socket.as_raw_fd(), &mut [0; 1], MsgFlags::empty()) {
        // ENOBUFS: more was said than the kernel kept.
        Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
        Err(error) => Err(error),
    }
}
