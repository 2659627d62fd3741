//! The sets of a table: which connections are meant by their 4-tuples, and how those are written.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nlink::netlink::nftables::{Family, Set, SetElement, SetKeyType};

use super::{FourTuple, MAX_TUPLES};

/// Name of the table, in family inet.
pub(super) const TABLE: &str = "aquifer";
pub(super) const FAMILY: Family = Family::Inet;

/// What the 4-tuples of a set are. Each is a set per family; the key is the pod's address and port, then the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// Stood before the capture and pass; a packet that begins another one takes it out.
    Exempt,
    /// Were being opened when the capture began, by either end; their SYN packets pass too.
    Opening,
    /// Are ours although nothing else is captured any more.
    Carried,
    /// Began while the table was in passage between two modes; filled by packets.
    Fresh,
    /// Are being refused by the rules: their resets pass. Filled by packets.
    Refused,
}

/// An address family of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Where the two addresses stand in the packet's header, and how long they are.
    pub(super) const fn addresses(self) -> (u32, u32, u32) {
        match self {
            Self::V4 => (12, 16, 4),
            Self::V6 => (8, 24, 16),
        }
    }
}

impl Group {
    pub(super) const fn set_name(self, ip: Ip) -> &'static str {
        match (self, ip) {
            (Self::Exempt, Ip::V4) => "exempt4",
            (Self::Exempt, Ip::V6) => "exempt6",
            (Self::Opening, Ip::V4) => "opening4",
            (Self::Opening, Ip::V6) => "opening6",
            (Self::Carried, Ip::V4) => "carried4",
            (Self::Carried, Ip::V6) => "carried6",
            (Self::Fresh, Ip::V4) => "fresh4",
            (Self::Fresh, Ip::V6) => "fresh6",
            (Self::Refused, Ip::V4) => "refused4",
            (Self::Refused, Ip::V6) => "refused6",
        }
    }

    pub(super) fn set(self, ip: Ip) -> Set {
        let address = match ip {
            Ip::V4 => SetKeyType::Ipv4Addr,
            Ip::V6 => SetKeyType::Ipv6Addr,
        };
        let port = SetKeyType::InetService;
        let key = SetKeyType::Concat(vec![address.clone(), port.clone(), address, port]);
        let set = Set::new(TABLE, self.set_name(ip)).family(FAMILY).key_type(key);
        match self {
            // Filled by the pod's packets, hence bounded: as many connections can begin between two modes, which is
            // milliseconds; what does not fit is dropped and repeated by TCP.
            Self::Fresh => set.dynamic().size(65_536),
            // Noted and read within one packet's way through the kernel; what does not fit is refused by silence.
            Self::Refused => set.dynamic().size(4096).timeout(Duration::from_secs(1)),
            // Taken from by packets, but never added to.
            Self::Exempt => set.dynamic().size(MAX_TUPLES as u32),
            // Bounded by `MAX_TUPLES` when they are written.
            Self::Opening | Self::Carried => set,
        }
    }
}

/// The key of a connection in a set, if it is of that family.
pub(super) fn element(ip: Ip, tuple: &FourTuple) -> Option<SetElement> {
    let address = |address: IpAddr| match (ip, address) {
        (Ip::V4, IpAddr::V4(v4)) => Some(SetElement::ipv4(v4)),
        (Ip::V6, IpAddr::V6(v6)) => Some(SetElement::ipv6(v6)),
        _ => None,
    };
    let FourTuple { local, remote } = tuple;
    Some(SetElement::concat([
        address(local.ip())?,
        SetElement::port(local.port()),
        address(remote.ip())?,
        SetElement::port(remote.port()),
    ]))
}

/// The connection that a key names.
pub(super) fn tuple(ip: Ip, key: &[u8]) -> Option<FourTuple> {
    fn end(ip: Ip, key: &[u8]) -> Option<(SocketAddr, &[u8])> {
        let (address, rest): (IpAddr, _) = match ip {
            Ip::V4 => key.split_first_chunk::<4>().map(|(bytes, rest)| ((*bytes).into(), rest))?,
            Ip::V6 => key.split_first_chunk::<16>().map(|(bytes, rest)| ((*bytes).into(), rest))?,
        };
        // A port is padded to four bytes, behind.
        let ([high, low, _, _], rest) = rest.split_first_chunk::<4>()?;
        Some((SocketAddr::new(address, u16::from_be_bytes([*high, *low])), rest))
    }
    let (local, rest) = end(ip, key)?;
    let (remote, rest) = end(ip, rest)?;
    rest.is_empty().then_some(FourTuple { local, remote })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(ip: Ip) -> BoxedStrategy<SocketAddr> {
        match ip {
            Ip::V4 => (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into()).boxed(),
            Ip::V6 => (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into()).boxed(),
        }
    }

    proptest! {
        #[test]
        fn keys_of_sets_are_read_as_written(
            (ip, local, remote) in proptest::sample::select(&Ip::BOTH[..]).prop_flat_map(|ip| (Just(ip), end(ip), end(ip)))
        ) {
            let connection = FourTuple { local, remote };
            let key = element(ip, &connection).unwrap();
            prop_assert_eq!(tuple(ip, key.key()), Some(connection));
            for other in Ip::BOTH.into_iter().filter(|other| *other != ip) {
                prop_assert_eq!(element(other, &connection), None);
                prop_assert_eq!(tuple(other, key.key()), None);
            }
        }
    }
}
