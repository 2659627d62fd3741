//! Which endpoint of a Service takes a call, prepared so that a choice scans nothing.

mod group;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rpds::HashTrieMapSync;

use self::group::{Group, Groups, Kind, mix};
use crate::{
    Endpoint, EndpointSlice, Family, NamespacedName, Node, Protocol, Service, Text, TrafficDistribution,
    Workload, WorkloadName,
};

pub(crate) type Nodes = HashTrieMapSync<Arc<str>, Arc<Node>>;

/// How many endpoints a choice looks at before it gives a tier up, beyond those that it was told to avoid. Reached only
/// where hundreds of endpoints lead nowhere; it bounds what a slice full of such can cost a connection.
const LOOK: usize = 1024;

/// A Service with its endpoints, ready to choose from.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) service: Arc<Service>,
    slices: Box<[Arc<Prepared>]>,
    /// For each port of the Service, for each family, the slices that have endpoints for it.
    ports: Box<[[Box<[Part]>; 2]]>,
}

/// A slice as a source of endpoints for one port. Counts stand here so that a choice among many slices reads no more
/// than this list.
#[derive(Debug)]
struct Part {
    slice: u32,
    target: u16,
    ready: u32,
    draining: u32,
}

/// A slice with its endpoints sorted for choosing. Depends on the slice, on what its Service [`Needs`], and on the zones
/// of Nodes whose endpoints do not tell their own.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) slice: Arc<EndpointSlice>,
    needs: Needs,
    groups: Groups,
    /// Endpoints sorted by workload, then address.
    members: Box<[u32]>,
}

/// What a Service asks of the preparation of its slices, so that plain Services do not pay for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Sorted by node.
    pub(crate) nodes: bool,
    /// Sorted by zone.
    pub(crate) zones: bool,
    /// A hash ring for `sessionAffinity`.
    pub(crate) ring: bool,
    /// Readiness does not count.
    pub(crate) not_ready: bool,
}

/// Which endpoints are asked, in the order of the lists of tiers below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tier {
    draining: bool,
    near: Near,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    Node,
    Zone,
    Anywhere,
}

/// What a call asks of a [`Plan`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// Index of the Service's port.
    pub(crate) port: usize,
    pub(crate) family: Family,
    /// The caller's node and zone, empty where unknown.
    pub(crate) node: &'a str,
    pub(crate) zone: &'a str,
    pub(crate) choice: Choice,
}

/// How to choose among equals.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice {
    /// By these random bits.
    Random(u64),
    /// By this client: always the same endpoint, as long as it is there.
    Sticky(IpAddr),
}

impl Needs {
    pub(crate) fn of(service: &Service) -> Self {
        let spread = service.traffic_distribution;
        Self {
            nodes: service.internal_local || spread == TrafficDistribution::PreferSameNode,
            zones: spread != TrafficDistribution::Any,
            ring: service.session_affinity.is_some(),
            not_ready: service.publish_not_ready,
        }
    }
}

impl Tier {
    const fn ready(near: Near) -> Self {
        Self { draining: false, near }
    }

    const fn draining(near: Near) -> Self {
        Self { draining: true, near }
    }

    /// The tiers of a Service, best first: a ready endpoint far away is better than a draining one near by.
    pub(crate) fn of(service: &Service, local: bool) -> &'static [Self] {
        use Near::{Anywhere, Node, Zone};
        const LOCAL: &[Tier] = &[Tier::ready(Node), Tier::draining(Node)];
        const ANY: &[Tier] = &[Tier::ready(Anywhere), Tier::draining(Anywhere)];
        const ZONE: &[Tier] =
            &[Tier::ready(Zone), Tier::ready(Anywhere), Tier::draining(Zone), Tier::draining(Anywhere)];
        const NODE: &[Tier] = &[
            Tier::ready(Node),
            Tier::ready(Zone),
            Tier::ready(Anywhere),
            Tier::draining(Node),
            Tier::draining(Zone),
            Tier::draining(Anywhere),
        ];
        match service.traffic_distribution {
            _ if local => LOCAL,
            TrafficDistribution::Any => ANY,
            TrafficDistribution::PreferSameZone => ZONE,
            TrafficDistribution::PreferSameNode => NODE,
        }
    }
}

impl Prepared {
    /// A slice not prepared yet: nothing can be chosen from it.
    pub(crate) fn bare(slice: Arc<EndpointSlice>) -> Self {
        Self { slice, needs: Needs::default(), groups: Groups::default(), members: Box::default() }
    }

    pub(crate) fn new(slice: Arc<EndpointSlice>, needs: Needs, nodes: &Nodes) -> Self {
        let place = |index: u32| {
            let endpoint = &slice.endpoints[index as usize];
            match endpoint.zone.is_empty() {
                true => nodes.get(&*endpoint.node).map_or("", |node| &node.zone),
                false => &endpoint.zone,
            }
        };
        let kind = |endpoint: &Endpoint| {
            let ready = endpoint.ready || needs.not_ready;
            let draining = !ready && endpoint.serving && endpoint.terminating;
            (ready || draining).then(|| Kind { family: Family::of(endpoint.address), draining })
        };
        let groups = Groups::new(&slice.endpoints, &kind, needs, &place);
        let mut members: Box<[u32]> = (0..slice.endpoints.len() as u32).collect();
        members.sort_unstable_by(|a, b| {
            let key = |i: &u32| {
                let endpoint = &slice.endpoints[*i as usize];
                (endpoint.workload.as_ref(), endpoint.address.to_canonical())
            };
            key(a).cmp(&key(b))
        });
        Self { slice, needs, groups, members }
    }

    pub(crate) fn needs(&self) -> Needs {
        self.needs
    }

    /// Nodes whose zone this preparation took over from them.
    pub(crate) fn zone_nodes(&self) -> impl Iterator<Item = &Text> {
        let endpoints = if self.needs.zones { &*self.slice.endpoints } else { &[] };
        endpoints.iter().filter(|e| e.zone.is_empty() && !e.node.is_empty()).map(|e| &e.node)
    }

    /// Whether an endpoint names the workload, or names none and has an address of it.
    fn has(&self, workload: &Workload) -> bool {
        let found = |name: Option<&WorkloadName>, address: Option<IpAddr>| {
            self.members
                .binary_search_by(|i| {
                    let endpoint = &self.slice.endpoints[*i as usize];
                    let by_name = endpoint.workload.as_ref().cmp(&name);
                    by_name.then_with(|| {
                        address.map_or(std::cmp::Ordering::Equal, |a| endpoint.address.to_canonical().cmp(&a))
                    })
                })
                .is_ok()
        };
        let by_address = || {
            !workload.host_network()
                && !workload.finished()
                && workload.addresses().iter().any(|a| found(None, Some(a.to_canonical())))
        };
        found(Some(workload.name()), None) || by_address()
    }

    fn target(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.slice.ports.iter().find(|p| p.protocol == protocol && p.name.as_ref() == name).map(|p| p.port)
    }

    fn group(&self, family: Family, draining: bool) -> Group<'_> {
        self.groups.get(Kind { family, draining })
    }
}

impl Plan {
    pub(crate) fn new(service: Arc<Service>, slices: Box<[Arc<Prepared>]>) -> Self {
        let parts = |name: &str, protocol, family| {
            let part = |(index, slice): (usize, &Arc<Prepared>)| {
                let [ready, draining] =
                    [false, true].map(|draining| slice.group(family, draining).len() as u32);
                let target = slice.target(name, protocol)?;
                (ready + draining > 0).then_some(Part { slice: index as u32, target, ready, draining })
            };
            slices.iter().enumerate().filter_map(part).collect()
        };
        let ports = service
            .ports
            .iter()
            .map(|port| [Family::V4, Family::V6].map(|family| parts(&port.name, port.protocol, family)))
            .collect();
        Self { service, slices, ports }
    }

    /// Names of its slices.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &NamespacedName> {
        self.slices.iter().map(|prepared| &prepared.slice.name)
    }

    /// Index of a port of the Service.
    pub(crate) fn port(&self, port: u16, protocol: Protocol) -> Option<usize> {
        self.service.ports.iter().position(|p| p.port == port && p.protocol == protocol)
    }

    /// Whether the port has any endpoint of the family that could take a call.
    pub(crate) fn any(&self, port: usize, family: Family) -> bool {
        !self.ports[port][family as usize].is_empty()
    }

    /// Whether an endpoint is the workload.
    pub(crate) fn has(&self, workload: &Workload) -> bool {
        self.slices.iter().any(|slice| slice.has(workload))
    }

    /// The workload's own port behind a port of the Service.
    pub(crate) fn target(&self, workload: &Workload, port: u16, protocol: Protocol) -> Option<u16> {
        let port = &self.service.ports[self.port(port, protocol)?];
        let targets =
            |slice: &Arc<Prepared>| slice.target(&port.name, protocol).filter(|_| slice.has(workload));
        self.slices.iter().find_map(targets)
    }

    /// Whether a tier has endpoints at all.
    pub(crate) fn populated(&self, wish: &Wish<'_>, tier: Tier) -> bool {
        self.candidates(wish, tier).any(|(_, _, count)| count > 0)
    }

    /// Chooses one of a tier's endpoints among those that `accept` takes, and returns what `accept` made of it. The first
    /// answer costs a draw; `avoided` bounds how many refusals are expected beyond [`LOOK`].
    pub(crate) fn choose<R>(
        &self,
        wish: &Wish<'_>,
        tier: Tier,
        avoided: usize,
        mut accept: impl FnMut(&Endpoint, SocketAddr) -> Option<R>,
    ) -> Option<(SocketAddr, R)> {
        let mut accept = |slice: &Prepared, index: u32, target: u16| {
            let endpoint = &slice.slice.endpoints[index as usize];
            let address = SocketAddr::new(endpoint.address.to_canonical(), target);
            accept(endpoint, address).map(|r| (address, r))
        };
        match wish.choice {
            Choice::Random(bits) => self.draw(wish, tier, avoided, bits, &mut accept),
            Choice::Sticky(client) => {
                let point = group::client_point(client);
                let nearest = |(part, slice, _): (&Part, &Prepared, usize)| {
                    let group = slice.group(wish.family, tier.draining);
                    let only = match tier.near {
                        Near::Anywhere => None,
                        _ => Some(group.near(tier.near, wish)),
                    };
                    let look = LOOK.saturating_add(avoided.saturating_mul(group::POINTS));
                    group.walk(point, only, look, |index| accept(slice, index, part.target))
                };
                let best = self.candidates(wish, tier).filter_map(nearest);
                best.min_by_key(|(distance, (address, _))| (*distance, *address)).map(|(_, found)| found)
            }
        }
    }

    /// Draws at random; after a few refusals goes on from the last draw in order, so that each endpoint is asked once.
    fn draw<R>(
        &self,
        wish: &Wish<'_>,
        tier: Tier,
        avoided: usize,
        bits: u64,
        accept: &mut impl FnMut(&Prepared, u32, u16) -> Option<R>,
    ) -> Option<R> {
        let total: usize = self.candidates(wish, tier).map(|(_, _, count)| count).sum();
        if total == 0 {
            return None;
        }
        let at = |mut index: usize| {
            for (part, slice, count) in self.candidates(wish, tier) {
                if index < count {
                    return Some((
                        slice,
                        slice.group(wish.family, tier.draining).near(tier.near, wish)[index],
                        part.target,
                    ));
                }
                index -= count;
            }
            None
        };
        let mut ask = |index| at(index).and_then(|(slice, endpoint, target)| accept(slice, endpoint, target));
        let spot = |bits: u64| ((u128::from(mix(bits)) * total as u128) >> 64) as usize;
        for nth in 0..3 {
            if let Some(found) = ask(spot(bits.wrapping_add(nth))) {
                return Some(found);
            }
        }
        let start = spot(bits.wrapping_add(3));
        let steps = total.min(LOOK.saturating_add(avoided));
        (0..steps).find_map(|step| ask((start + step) % total))
    }

    /// The slices that serve the wish's port, each with how many endpoints of the tier it has.
    fn candidates<'p>(
        &'p self,
        wish: &Wish<'p>,
        tier: Tier,
    ) -> impl Iterator<Item = (&'p Part, &'p Prepared, usize)> + use<'p> {
        let wish = *wish;
        self.ports[wish.port][wish.family as usize].iter().map(move |part| {
            let slice = &*self.slices[part.slice as usize];
            let count = match tier.near {
                Near::Anywhere if tier.draining => part.draining as usize,
                Near::Anywhere => part.ready as usize,
                near => slice.group(wish.family, tier.draining).near(near, &wish).len(),
            };
            (part, slice, count)
        })
    }
}
