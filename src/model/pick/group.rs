//! Sets of equal endpoints of one slice, sorted by node and zone and laid on a hash ring where a Service needs it.

use std::net::IpAddr;

use super::{Near, Needs, Wish};
use crate::{Endpoint, Family, Text};

/// Points of one endpoint on the hash ring: loads differ by about 1/√32 ≈ 18 % at 256 bytes an endpoint, which only
/// Services with `sessionAffinity` pay.
pub(super) const POINTS: usize = 32;

/// The groups of a slice: of each family those that are ready, and those that terminate and still serve, which count where none
/// is ready. In one list, since there is one of these for each slice and most groups are empty.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Indices into the slice's endpoints, one group after the other.
    all: Box<[u32]>,
    /// Where each group ends in it.
    ends: [u32; GROUPS],
    /// What only some Services need.
    extras: Option<Box<[Extras; GROUPS]>>,
}

const GROUPS: usize = 4;

/// Which of the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) family: Family,
    pub(super) draining: bool,
}

/// One of the groups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<'a> {
    /// Indices into the slice's endpoints, ascending.
    all: &'a [u32],
    extras: Option<&'a Extras>,
}

#[derive(Debug, Default)]
struct Extras {
    nodes: Spans,
    zones: Spans,
    /// Points (hash, index of the endpoint), sorted; equal hashes by address.
    ring: Box<[(u32, u32)]>,
}

/// Endpoints sorted by a text, with the places where each text begins.
#[derive(Debug, Default)]
struct Spans {
    order: Box<[u32]>,
    starts: Box<[(Text, u32)]>,
}

impl Kind {
    fn nth(self) -> usize {
        self.family as usize * 2 + usize::from(self.draining)
    }
}

impl Groups {
    /// Sorts endpoints by their kind; those that have none are in no group.
    pub(super) fn new<'a>(
        endpoints: &'a [Endpoint],
        kind: &dyn Fn(&Endpoint) -> Option<Kind>,
        needs: Needs,
        zone: &dyn Fn(u32) -> &'a str,
    ) -> Self {
        let mut kinds: Vec<(usize, u32)> =
            endpoints.iter().zip(0..).filter_map(|(endpoint, i)| Some((kind(endpoint)?.nth(), i))).collect();
        kinds.sort_unstable();
        let ends = std::array::from_fn(|nth| kinds.partition_point(|(of, _)| *of <= nth) as u32);
        // By reference: a list that is taken apart would stay in its own room, four times as large.
        let mut groups = Self { all: kinds.iter().map(|(_, i)| *i).collect(), ends, extras: None };
        if needs.nodes || needs.zones || needs.ring {
            let node = |i: u32| endpoints[i as usize].node.as_str();
            groups.extras = Some(Box::new(std::array::from_fn(|nth| {
                let all = groups.slice(nth);
                Extras {
                    nodes: if needs.nodes { Spans::new(all, &node) } else { Spans::default() },
                    zones: if needs.zones { Spans::new(all, zone) } else { Spans::default() },
                    ring: if needs.ring { ring(all, endpoints) } else { Box::default() },
                }
            })));
        }
        groups
    }

    pub(super) fn get(&self, kind: Kind) -> Group<'_> {
        let nth = kind.nth();
        Group { all: self.slice(nth), extras: self.extras.as_ref().map(|extras| &extras[nth]) }
    }

    fn slice(&self, nth: usize) -> &[u32] {
        let start = nth.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.all[start..self.ends[nth] as usize]
    }
}

impl<'a> Group<'a> {
    pub(super) fn len(self) -> usize {
        self.all.len()
    }

    /// The endpoints of the caller's node, of its zone, or all; in ascending order.
    pub(super) fn near(self, near: Near, wish: &Wish<'_>) -> &'a [u32] {
        match (near, self.extras) {
            (Near::Anywhere, _) => self.all,
            (Near::Node, Some(extras)) => extras.nodes.of(wish.node),
            (Near::Zone, Some(extras)) => extras.zones.of(wish.zone),
            (_, None) => &[],
        }
    }

    /// Walks the ring from `point` to the first endpoint (of `only`, where given) that `accept` takes, with its distance.
    /// `accept` is asked at most `look` times.
    pub(super) fn walk<R>(
        self,
        point: u32,
        only: Option<&[u32]>,
        look: usize,
        mut accept: impl FnMut(u32) -> Option<R>,
    ) -> Option<(u32, R)> {
        let ring = &self.extras?.ring;
        let start = ring.partition_point(|(at, _)| *at < point);
        let (before, after) = ring.split_at(start);
        let fits = |index: &u32| only.is_none_or(|only| only.binary_search(index).is_ok());
        let points = after.iter().chain(before).filter(|(_, index)| fits(index)).take(look);
        points.map(|(at, index)| accept(*index).map(|r| (at.wrapping_sub(point), r))).find_map(|found| found)
    }
}

impl Spans {
    fn new<'a>(all: &[u32], text: &dyn Fn(u32) -> &'a str) -> Self {
        let mut named: Vec<(&str, u32)> =
            all.iter().map(|i| (text(*i), *i)).filter(|(text, _)| !text.is_empty()).collect();
        named.sort_unstable();
        let order = named.iter().map(|(_, i)| *i).collect();
        let mut starts: Vec<(&str, u32)> =
            named.into_iter().enumerate().map(|(place, (text, _))| (text, place as u32)).collect();
        starts.dedup_by(|later, earlier| later.0 == earlier.0);
        Self { order, starts: starts.into_iter().map(|(text, place)| (text.into(), place)).collect() }
    }

    fn of(&self, text: &str) -> &[u32] {
        let Ok(found) = self.starts.binary_search_by(|(t, _)| t.as_str().cmp(text)) else { return &[] };
        let end = self.starts.get(found + 1).map_or(self.order.len(), |(_, start)| *start as usize);
        &self.order[self.starts[found].1 as usize..end]
    }
}

fn ring(all: &[u32], endpoints: &[Endpoint]) -> Box<[(u32, u32)]> {
    let points = |i: &u32| {
        let (index, hash) = (*i, hash(endpoints[*i as usize].address));
        (0..POINTS as u64).map(move |nth| ((mix(hash.wrapping_add(nth)) >> 32) as u32, index))
    };
    let mut ring: Vec<(u32, u32)> = all.iter().flat_map(points).collect();
    ring.sort_unstable_by_key(|(at, index)| (*at, endpoints[*index as usize].address.to_canonical(), *index));
    ring.into()
}

/// Where a client stands on the ring.
pub(super) fn client_point(client: IpAddr) -> u32 {
    // Not the hash of an endpoint's points: a pod that calls its own Service would stand on one of its own.
    (mix(!hash(client)) >> 32) as u32
}

/// The same in each process and version, so that two nodes send one client to one endpoint.
fn hash(ip: IpAddr) -> u64 {
    let bits = match ip.to_canonical() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    mix(mix((bits >> 64) as u64) ^ bits as u64)
}

/// The finalizer of SplitMix64: each bit of the input turns half of the output's.
pub(super) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
