//! Network namespaces by name, and the links, addresses and routes inside them, over rtnetlink: what test beds and the demo are made of.
//!
//! Namespaces are bind mounts in a directory, as `ip netns` makes them, so that `ip netns exec` works on them. A [`Links`]
//! is a netlink socket that was made inside a namespace and stays there: its calls block for some microseconds and never
//! move the calling thread.

mod capture;

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, State},
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
        },
    },
    sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE},
};

pub use capture::Capture;

use crate::NetNs;

/// Where `ip netns` keeps its namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// Makes a new network namespace, its loopback up, and binds it to `dir/name`.
///
/// Fails with `AlreadyExists` where the name is taken, and with `PermissionDenied` without CAP_SYS_ADMIN.
pub fn create_netns(dir: &Path, name: &str) -> io::Result<NetNs> {
    let path = netns_path(dir, name)?;
    prepare_netns_dir(dir)?;
    File::options().write(true).create_new(true).open(&path)?;
    // A thread of its own, because unshare moves the thread that calls it, and this one ends right after.
    let bind = path.clone();
    let bound = thread::Builder::new()
        .name("new-netns".into())
        .spawn(move || -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &bind, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        })?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that makes the namespace panicked")));
    let made = bound.and_then(|()| NetNs::open(&path)).and_then(|ns| {
        Links::open(&ns)?.up("lo")?;
        Ok(ns)
    });
    if made.is_err() {
        // The error that matters is the first one; what it left behind goes as far as it can.
        let _ = delete_netns(dir, name);
    }
    made
}

/// Takes the name `dir/name` away. The namespace itself lives on while a process, socket or descriptor holds it.
///
/// A name that does not exist is no error: the outcome is the same.
pub fn delete_netns(dir: &Path, name: &str) -> io::Result<()> {
    let path = netns_path(dir, name)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a plain file, left by a run that ended between the two steps of `create_netns`.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The names in `dir`, sorted; empty where the directory does not exist.
pub fn netns_names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// `dir/name`, refusing names that would leave the directory.
fn netns_path(dir: &Path, name: &str) -> io::Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') || name.len() > 200 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} cannot name a network namespace: it must be a plain file name"),
        ));
    }
    Ok(dir.join(name))
}

/// Makes `dir` a shared mount point, as `ip netns` does, so that a name removed here is removed in every mount namespace.
fn prepare_netns_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let share = || mount(None::<&str>, dir, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share() == Err(Errno::EINVAL) {
        mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
        share()?;
    }
    Ok(())
}

/// Sets a sysctl inside a namespace; `key` with dots or slashes, below `/proc/sys` (`net.ipv4.ip_forward`).
pub fn sysctl(ns: &NetNs, key: &str, value: &str) -> io::Result<()> {
    let path =
        Path::new("/proc/sys").join(if key.contains('/') { key.into() } else { key.replace('.', "/") });
    ns.run(|| fs::write(&path, value))
        .map_err(|error| io::Error::new(error.kind(), format!("cannot set sysctl {key} to {value}: {error}")))
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via<'a> {
    /// A neighbour that forwards.
    Gateway(IpAddr),
    /// Directly over an interface.
    Interface(&'a str),
    /// Nowhere, without a word: packets are dropped as by a cable that was cut.
    Blackhole,
}

/// The links of one namespace.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

impl Links {
    /// Opens a netlink socket inside `ns`.
    pub fn open(ns: &NetNs) -> io::Result<Self> {
        let socket = ns.run(|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&NetlinkAddr::new(0, 0))?;
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// Makes a bridge without spanning tree, down.
    pub fn bridge(&self, name: &str) -> io::Result<()> {
        self.create(LinkBridge::new(name).build(), &format!("bridge {name}"))
    }

    /// Makes a pair of virtual Ethernet devices: `name` here, `peer` in `peer_ns`, both down.
    pub fn veth(&self, name: &str, peer_ns: &NetNs, peer: &str) -> io::Result<()> {
        let mut far = LinkUnspec::new_with_name(peer).build();
        far.attributes.push(LinkAttribute::NetNsFd(peer_ns.as_fd().as_raw_fd()));
        let near = LinkMessageBuilder::<LinkVeth>::new(name, peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)));
        self.create(near.build(), &format!("veth {name} to {peer}"))
    }

    /// Index of an interface; `NotFound` where there is none of that name.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(link.header.index),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel answered without a link")),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                Err(io::Error::new(io::ErrorKind::NotFound, format!("no interface {name} in this namespace")))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether an interface carries packets: it is up, and so is the other end.
    ///
    /// The kernel finds that out some moments after `up`; what is sent before is lost.
    pub fn carries(&self, name: &str) -> io::Result<bool> {
        let message = LinkUnspec::new_with_name(name).build();
        let Some(RouteNetlinkMessage::NewLink(link)) = self.ask(RouteNetlinkMessage::GetLink(message), 0)?
        else {
            return Ok(false);
        };
        Ok(link.attributes.contains(&LinkAttribute::OperState(State::Up)))
    }

    /// Makes an interface a port of a bridge.
    pub fn attach(&self, name: &str, bridge: &str) -> io::Result<()> {
        let bridge = self.index(bridge)?;
        self.set(name, |link| link.controller(bridge))
    }

    /// Takes an interface up.
    pub fn up(&self, name: &str) -> io::Result<()> {
        self.set(name, LinkMessageBuilder::up)
    }

    /// Takes an interface down. Its IPv4 routes and IPv6 addresses go with it.
    pub fn down(&self, name: &str) -> io::Result<()> {
        self.set(name, LinkMessageBuilder::down)
    }

    /// Sets the MTU in bytes.
    pub fn mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        self.set(name, |link| link.mtu(mtu))
    }

    /// Deletes an interface, and with it the other end of a pair.
    pub fn delete(&self, name: &str) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(self.index(name)?).build();
        self.ask(RouteNetlinkMessage::DelLink(message), NLM_F_ACK).map(drop)
    }

    /// Adds an address to an interface; an IPv6 address is usable at once, without duplicate address detection.
    pub fn address(&self, name: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = self.index(name)?;
        message.header.prefix_len = prefix;
        message.header.family = family(address);
        message.attributes.push(AddressAttribute::Address(address));
        message.attributes.push(AddressAttribute::Local(address));
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|error| named(&error, &format!("address {address}/{prefix} on {name}")))
    }

    /// Adds a route to the main table, in place of one for the same destination.
    pub fn route(&self, to: IpAddr, prefix: u8, via: Via<'_>) -> io::Result<()> {
        let mut message = route_message(to, prefix);
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        match via {
            Via::Gateway(IpAddr::V4(gateway)) => {
                message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
            }
            Via::Gateway(IpAddr::V6(gateway)) => {
                message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet6(gateway)));
            }
            Via::Interface(name) => {
                message.header.scope = RouteScope::Link;
                message.attributes.push(RouteAttribute::Oif(self.index(name)?));
            }
            Via::Blackhole => message.header.kind = RouteType::BlackHole,
        }
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|error| named(&error, &format!("route to {to}/{prefix} {via:?}")))
    }

    /// Removes the route to a destination from the main table.
    pub fn route_delete(&self, to: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = route_message(to, prefix);
        message.header.scope = RouteScope::NoWhere;
        self.ask(RouteNetlinkMessage::DelRoute(message), NLM_F_ACK)
            .map(drop)
            .map_err(|error| named(&error, &format!("removal of the route to {to}/{prefix}")))
    }

    fn create(&self, message: LinkMessage, what: &str) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|error| named(&error, what))
    }

    fn set(
        &self,
        name: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> io::Result<()> {
        let message = change(LinkUnspec::new_with_index(self.index(name)?)).build();
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .map(drop)
            .map_err(|error| named(&error, &format!("interface {name}")))
    }

    /// Sends one request and returns its answer, or nothing where the answer is an acknowledgement.
    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = 1;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(None),
        }
    }
}

fn route_message(to: IpAddr, prefix: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.scope = RouteScope::Universe;
    if prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(match to {
            IpAddr::V4(to) => RouteAddress::Inet(to),
            IpAddr::V6(to) => RouteAddress::Inet6(to),
        }));
    }
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn named(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
