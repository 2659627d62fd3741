//! The mesh's own networks: does an address lie in one of many prefixes, at the cost of one look-up a prefix length.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rpds::HashTrieMapSync;

/// A multiset of prefixes. Clusters have thousands of podCIDRs and one or two lengths of them.
#[derive(Clone, Debug)]
pub(crate) struct Networks {
    prefixes: HashTrieMapSync<IpNet, u32>,
    /// How many prefixes there are of each family (is it IPv6) and length.
    lengths: Arc<BTreeMap<(bool, u8), u32>>,
}

impl Default for Networks {
    fn default() -> Self {
        Self { prefixes: HashTrieMapSync::new_sync(), lengths: Arc::default() }
    }
}

impl Networks {
    /// Whether `ip` lies in one of them.
    pub(crate) fn contain(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let family = (ip.is_ipv6(), 0)..=(ip.is_ipv6(), u8::MAX);
        self.lengths.range(family).any(|(&(_, length), _)| {
            IpNet::new(ip, length).is_ok_and(|net| self.prefixes.contains_key(&net.trunc()))
        })
    }

    /// Adds a prefix; it is counted, two Nodes may name the same.
    pub(crate) fn add(&mut self, net: IpNet) {
        let net = net.trunc();
        match self.prefixes.get_mut(&net) {
            Some(count) => *count += 1,
            None => {
                self.prefixes.insert_mut(net, 1);
                *Arc::make_mut(&mut self.lengths).entry(Self::length(net)).or_default() += 1;
            }
        }
    }

    /// Takes back one [`Networks::add`].
    pub(crate) fn remove(&mut self, net: IpNet) {
        let net = net.trunc();
        match self.prefixes.get_mut(&net) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                self.prefixes.remove_mut(&net);
                let lengths = Arc::make_mut(&mut self.lengths);
                if let Some(count) = lengths.get_mut(&Self::length(net)) {
                    *count -= 1;
                }
                lengths.retain(|_, count| *count > 0);
            }
            None => {}
        }
    }

    fn length(net: IpNet) -> (bool, u8) {
        (matches!(net, IpNet::V6(_)), net.prefix_len())
    }
}
