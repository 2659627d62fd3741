//! What several resources consist of.

use std::net::IpAddr;
use std::sync::Arc;

use aquifer_model::{NamespacedName, Protocol};

use super::Wrong;
use crate::proto::mesh;

pub(super) fn name(name: Option<mesh::Name>) -> Result<NamespacedName, Wrong> {
    let name = name.filter(|name| !name.name.is_empty() && !name.namespace.is_empty());
    let name = name.ok_or("it has no name and namespace")?;
    // A resource is named NAMESPACE/NAME, which has to say which is which.
    if name.name.contains('/') || name.namespace.contains('/') {
        return Err("a name has a slash".to_owned());
    }
    Ok(NamespacedName::new(name.namespace, name.name))
}

/// A name that is no pair.
pub(super) fn plain(name: String) -> Result<Arc<str>, Wrong> {
    if name.is_empty() { Err("it has no name".to_owned()) } else { Ok(name.into()) }
}

pub(crate) fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(super) fn to_address(bytes: &[u8]) -> Result<IpAddr, Wrong> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => Ok(v6.into()),
        Err(_) => Err(format!("an address has {} bytes", bytes.len())),
    }
}

pub(super) fn addresses<T: FromIterator<IpAddr>>(all: &[Vec<u8>]) -> Result<T, Wrong> {
    all.iter().map(|bytes| to_address(bytes)).collect()
}

/// A list in room of its own that fits: one that is collected of another stays in that one's room, with all that was too much of it.
pub(super) fn list<W, T>(
    wire: Vec<W>,
    mut read: impl FnMut(W) -> Result<T, Wrong>,
) -> Result<Box<[T]>, Wrong> {
    let mut list = Vec::with_capacity(wire.len());
    for each in wire {
        list.push(read(each)?);
    }
    Ok(list.into())
}

pub(super) fn port(port: u32) -> Result<u16, Wrong> {
    u16::try_from(port).map_err(|_| format!("{port} is no port"))
}

pub(super) fn pairs<T: ToString>(pairs: &[(T, T)]) -> Vec<mesh::Pair> {
    pairs.iter().map(|(key, value)| mesh::Pair { key: key.to_string(), value: value.to_string() }).collect()
}

/// Sorted by key, as the model looks them up.
pub(super) fn to_pairs(pairs: Vec<mesh::Pair>) -> Arc<[(Arc<str>, Arc<str>)]> {
    let mut pairs: Vec<(Arc<str>, Arc<str>)> =
        pairs.into_iter().map(|pair| (pair.key.into(), pair.value.into())).collect();
    pairs.sort();
    pairs.into()
}

pub(super) fn protocol(protocol: Protocol) -> i32 {
    i32::from(match protocol {
        Protocol::Tcp => mesh::Protocol::Tcp,
        Protocol::Udp => mesh::Protocol::Udp,
        Protocol::Sctp => mesh::Protocol::Sctp,
    })
}

pub(super) fn to_protocol(number: i32) -> Result<Protocol, Wrong> {
    match mesh::Protocol::try_from(number) {
        Ok(mesh::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(mesh::Protocol::Udp) => Ok(Protocol::Udp),
        Ok(mesh::Protocol::Sctp) => Ok(Protocol::Sctp),
        Err(_) => Err(format!("protocol {number} is not known")),
    }
}
