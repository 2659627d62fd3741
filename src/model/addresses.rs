//! The addresses of a pod or Service: mostly one, or one of each family, and so held without an allocation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A list of addresses in 24 bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Addresses(Form);

/// Each list has exactly one form.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
enum Form {
    #[default]
    None,
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    V4V6(Ipv4Addr, Ipv6Addr),
    V6V4(Ipv6Addr, Ipv4Addr),
    Many(Box<[IpAddr]>),
}

impl Addresses {
    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::None => 0,
            Form::V4(_) | Form::V6(_) => 1,
            Form::V4V6(..) | Form::V6V4(..) => 2,
            Form::Many(all) => all.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<IpAddr> {
        match (&self.0, index) {
            (Form::V4(ip) | Form::V4V6(ip, _), 0) | (Form::V6V4(_, ip), 1) => Some((*ip).into()),
            (Form::V6(ip) | Form::V6V4(ip, _), 0) | (Form::V4V6(_, ip), 1) => Some((*ip).into()),
            (Form::Many(all), index) => all.get(index).copied(),
            _ => None,
        }
    }

    /// The first of them.
    pub fn first(&self) -> Option<IpAddr> {
        self.get(0)
    }

    /// All, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = IpAddr> + Clone + fmt::Debug + use<'_> {
        Iter { addresses: self, next: 0 }
    }

    /// Whether `ip` is one of them, written the same way.
    pub fn contains(&self, ip: &IpAddr) -> bool {
        self.iter().any(|own| own == *ip)
    }
}

#[derive(Clone, Debug)]
struct Iter<'a> {
    addresses: &'a Addresses,
    next: usize,
}

impl Iterator for Iter<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        let found = self.addresses.get(self.next)?;
        self.next += 1;
        Some(found)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.addresses.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(all: I) -> Self {
        let mut all = all.into_iter();
        let (first, second, third) = (all.next(), all.next(), all.next());
        Self(match (first, second, third) {
            (None, ..) => Form::None,
            (Some(IpAddr::V4(ip)), None, _) => Form::V4(ip),
            (Some(IpAddr::V6(ip)), None, _) => Form::V6(ip),
            (Some(IpAddr::V4(first)), Some(IpAddr::V6(second)), None) => Form::V4V6(first, second),
            (Some(IpAddr::V6(first)), Some(IpAddr::V4(second)), None) => Form::V6V4(first, second),
            (first, second, third) => {
                Form::Many(first.into_iter().chain(second).chain(third).chain(all).collect())
            }
        })
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl serde::Serialize for Addresses {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_was_put_in(list: Vec<IpAddr>, other: Vec<IpAddr>) {
            for list in (0..=list.len().min(4)).map(|n| &list[..n]) {
                let addresses: Addresses = list.iter().copied().collect();
                prop_assert_eq!(addresses.iter().collect::<Vec<_>>(), list);
                prop_assert_eq!((addresses.len(), addresses.first()), (list.len(), list.first().copied()));
                prop_assert_eq!(addresses.is_empty(), list.is_empty());
                prop_assert!(list.iter().all(|ip| addresses.contains(ip)));
                let others: Addresses = other.iter().copied().collect();
                prop_assert_eq!(addresses == others, list == other);
            }
        }
    }

    #[test]
    fn they_are_small() {
        assert!(size_of::<Addresses>() <= 24);
    }
}
