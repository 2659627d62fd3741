//! The mesh read naively: plain maps of objects, and every question answered by looking at all of them. Written from what
//! Kubernetes and Istio say, not from the code under test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::fixtures::ROOT;
use crate::{
    Access, Action, AuthorizationPolicy, Call, Carrier, DenialReason, Endpoint, EndpointSlice, Family,
    Identity, Match, MtlsMode, NamespacedName, Node, Passthrough, PeerAuthentication, PolicyScope, Protocol,
    Refusal, Resolution, Route, Rule, Service, StringMatch, TrafficDistribution, Update, Workload,
    WorkloadName,
};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct World {
    pub(super) workloads: BTreeMap<WorkloadName, Arc<Workload>>,
    pub(super) services: BTreeMap<NamespacedName, Arc<Service>>,
    pub(super) slices: BTreeMap<NamespacedName, Arc<EndpointSlice>>,
    pub(super) authorizations: BTreeMap<NamespacedName, Arc<AuthorizationPolicy>>,
    pub(super) authentications: BTreeMap<NamespacedName, Arc<PeerAuthentication>>,
    pub(super) nodes: BTreeMap<Arc<str>, Arc<Node>>,
}

type BeforeAfter = (Option<Arc<Workload>>, Option<Arc<Workload>>);

/// What a call may come to.
#[derive(Debug)]
pub(super) enum Expected {
    Exactly(Resolution),
    /// Each of these, over many calls.
    OneOf(Vec<Resolution>),
    /// One of these, and no other for this client.
    AlwaysTheSameOf(Vec<Resolution>),
}

/// What an access may come to.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) reason: Option<DenialReason>,
    /// Who may be named as having decided.
    pub(super) by: BTreeSet<Option<String>>,
    pub(super) audited: BTreeSet<String>,
}

impl World {
    pub(super) fn apply(&mut self, update: Update) {
        match update {
            Update::Workload(o) => drop(self.workloads.insert(o.name().clone(), o)),
            Update::WorkloadGone(name) => drop(self.workloads.remove(&name)),
            Update::Service(o) => drop(self.services.insert(o.name.clone(), o)),
            Update::ServiceGone(name) => drop(self.services.remove(&name)),
            Update::EndpointSlice(o) => drop(self.slices.insert(o.name.clone(), o)),
            Update::EndpointSliceGone(name) => drop(self.slices.remove(&name)),
            Update::Authorization(o) => drop(self.authorizations.insert(o.name.clone(), o)),
            Update::AuthorizationGone(name) => drop(self.authorizations.remove(&name)),
            Update::PeerAuthentication(o) => drop(self.authentications.insert(o.name.clone(), o)),
            Update::PeerAuthenticationGone(name) => drop(self.authentications.remove(&name)),
            Update::Node(o) => drop(self.nodes.insert(o.name.clone(), o)),
            Update::NodeGone(name) => drop(self.nodes.remove(&name)),
        }
    }

    /// Before and after, by name.
    pub(super) fn changed_workloads(&self, old: &World) -> Vec<BeforeAfter> {
        let names: BTreeSet<_> = self.workloads.keys().chain(old.workloads.keys()).collect();
        let both = names.into_iter().map(|n| (old.workloads.get(n).cloned(), self.workloads.get(n).cloned()));
        both.filter(|(before, after)| before != after).collect()
    }

    pub(super) fn services_changed(&self, old: &World) -> bool {
        self.services != old.services || self.slices != old.slices || self.nodes != old.nodes
    }

    pub(super) fn policies_changed(&self, old: &World) -> bool {
        let attached = |policy: &Arc<AuthorizationPolicy>| match &policy.scope {
            PolicyScope::Services(names) => names.clone(),
            _ => vec![],
        };
        let mut referred = self.authorizations.values().flat_map(attached);
        let slices = |world: &World, of: &NamespacedName| {
            world.slices.values().filter(|s| s.service == *of).cloned().collect::<Vec<_>>()
        };
        self.authorizations != old.authorizations
            || self.authentications != old.authentications
            || referred.any(|name| {
                self.services.get(&name) != old.services.get(&name)
                    || slices(self, &name) != slices(old, &name)
            })
    }

    fn claimants(&self, ip: IpAddr) -> Vec<&Arc<Workload>> {
        let holds = |w: &&Arc<Workload>| {
            !w.host_network()
                && !w.finished()
                && w.addresses().iter().any(|a| a.to_canonical() == ip.to_canonical())
        };
        let mut claimants: Vec<_> = self.workloads.values().filter(holds).collect();
        claimants.sort_by_key(|w| {
            (w.terminating(), std::cmp::Reverse((w.membership(), w.uid().clone(), w.name().clone())))
        });
        claimants
    }

    pub(super) fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.claimants(ip).first().copied()
    }

    pub(super) fn workload_by_uid(&self, uid: &str) -> Option<&Arc<Workload>> {
        let all = self.workloads.values().filter(|w| w.uid().to_string() == uid);
        all.min_by_key(|w| (w.terminating(), std::cmp::Reverse((w.membership(), w.name().clone()))))
    }

    pub(super) fn duplicate_addresses(&self) -> BTreeSet<(IpAddr, Vec<WorkloadName>)> {
        let ips = self.workloads.values().flat_map(|w| w.addresses().iter().map(|a| a.to_canonical()));
        let claims =
            ips.map(|ip| (ip, self.claimants(ip).iter().map(|w| w.name().clone()).collect::<Vec<_>>()));
        claims.filter(|(_, names)| names.len() > 1).collect()
    }

    pub(super) fn service_by_vip(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        self.services.values().find(|s| s.vips.contains(&ip.to_canonical()))
    }

    pub(super) fn service_by_hostname(&self, hostname: &str) -> Option<&Arc<Service>> {
        self.services.values().find(|s| s.hostname.as_ref() == hostname)
    }

    pub(super) fn in_mesh_networks(&self, ip: IpAddr) -> bool {
        self.nodes.values().flat_map(|n| &n.pod_cidrs).any(|net| net.contains(&ip.to_canonical()))
    }

    fn slices_of(&self, service: &Service) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.values().filter(|slice| slice.service == service.name)
    }

    fn is_endpoint(endpoint: &Endpoint, workload: &Workload) -> bool {
        match &endpoint.workload {
            Some(name) => name == workload.name(),
            None => {
                !workload.host_network()
                    && !workload.finished()
                    && workload
                        .addresses()
                        .iter()
                        .any(|a| a.to_canonical() == endpoint.address.to_canonical())
            }
        }
    }

    pub(super) fn serves(&self, workload: &Workload, service: &Service) -> bool {
        let carries = |(k, v): &(Arc<str>, Arc<str>)| {
            workload.labels().iter().any(|(wk, wv)| wk.as_str() == &**k && wv.as_str() == &**v)
        };
        let selected = !service.selector.is_empty()
            && !workload.finished()
            && *workload.namespace() == service.name.namespace
            && service.selector.iter().all(carries);
        selected || self.slices_of(service).flat_map(|s| &s.endpoints).any(|e| Self::is_endpoint(e, workload))
    }

    pub(super) fn target_ports(&self, workload: &Workload, service: &Service, port: u16) -> Vec<u16> {
        let Some(port) = service.ports.iter().find(|p| p.port == port && p.protocol == Protocol::Tcp) else {
            return vec![];
        };
        let slices =
            self.slices_of(service).filter(|s| s.endpoints.iter().any(|e| Self::is_endpoint(e, workload)));
        let ports =
            slices.flat_map(|s| &s.ports).filter(|p| p.name == port.name && p.protocol == port.protocol);
        ports.map(|p| p.port).collect()
    }

    pub(super) fn resolve(&self, call: &Call<'_>) -> Expected {
        let ip = call.destination.ip().to_canonical();
        let port = call.destination.port();
        let destination = SocketAddr::new(ip, port);
        let exactly = Expected::Exactly;
        if matches!(port, 15001 | 15006 | 15008) {
            return exactly(Resolution::Refuse(Refusal::ProxyPort(destination)));
        }
        let claiming: Vec<_> = self.services.values().filter(|s| s.vips.contains(&ip)).collect();
        for service in &claiming {
            if service.unresolved {
                return exactly(Resolution::Passthrough(Passthrough::UnresolvedService(
                    service.name.clone(),
                )));
            }
            if service.ports.iter().any(|p| p.port == port && p.protocol == call.protocol) {
                return self.resolve_service(service, destination, call);
            }
        }
        if let Some(workload) = self.workload_by_ip(ip) {
            return exactly(Self::route(destination, Some(workload), None));
        }
        if let Some(service) = claiming.iter().find(|s| !s.external_ips.contains(&ip)) {
            let service = service.name.clone();
            return exactly(Resolution::Refuse(Refusal::NoSuchPort {
                service,
                port,
                protocol: call.protocol,
            }));
        }
        match self.in_mesh_networks(ip) {
            true => exactly(Resolution::Unknown),
            false => exactly(Resolution::Passthrough(Passthrough::OutsideMesh)),
        }
    }

    fn route(
        target: SocketAddr,
        workload: Option<&Arc<Workload>>,
        service: Option<&Arc<Service>>,
    ) -> Resolution {
        let tunnel = workload.is_some_and(|w| w.in_mesh());
        let carrier = if tunnel { Carrier::Tunnel } else { Carrier::Plaintext };
        Resolution::Route(Route { target, workload: workload.cloned(), service: service.cloned(), carrier })
    }

    fn resolve_service(&self, service: &Arc<Service>, called: SocketAddr, call: &Call<'_>) -> Expected {
        let port =
            service.ports.iter().find(|p| p.port == called.port() && p.protocol == call.protocol).unwrap();
        let mut all: Vec<(&Endpoint, SocketAddr)> = vec![];
        for slice in self.slices_of(service) {
            for target in slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol) {
                let address = |e: &Endpoint| SocketAddr::new(e.address.to_canonical(), target.port);
                all.extend(slice.endpoints.iter().map(|e| (e, address(e))));
            }
        }
        let ready = |e: &Endpoint| e.ready || service.publish_not_ready;
        all.retain(|(e, _)| ready(e) || (e.serving && e.terminating));
        let (mine, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, a)| a.is_ipv4() == called.is_ipv4());

        let zone_of = |node: &str| self.nodes.get(node).map_or("", |n| n.zone.as_ref());
        let here = |e: &Endpoint| !e.node.is_empty() && e.node == *call.caller.node();
        let zone = zone_of(call.caller.node());
        let nearby = |e: &Endpoint| {
            let own = if e.zone.is_empty() { zone_of(&e.node) } else { &e.zone };
            !own.is_empty() && own == zone
        };
        let local = service.internal_local && !service.external_ips.contains(&called.ip());
        let mut tiers: Vec<Vec<(&Endpoint, SocketAddr)>> = vec![];
        for readiness in [true, false] {
            let some = |near: &dyn Fn(&Endpoint) -> bool| {
                mine.iter().copied().filter(|(e, _)| ready(e) == readiness && near(e)).collect::<Vec<_>>()
            };
            if local || service.traffic_distribution == TrafficDistribution::PreferSameNode {
                tiers.push(some(&here));
            }
            if !local && service.traffic_distribution != TrafficDistribution::Any {
                tiers.push(some(&nearby));
            }
            if !local {
                tiers.push(some(&|_| true));
            }
        }

        let settled = |(e, address): &(&Endpoint, SocketAddr)| self.behind(e, address.ip()).is_some();
        let fresh = |found: &(&Endpoint, SocketAddr)| settled(found) && !call.exclude.contains(&found.1);
        let best = |wanted: &dyn Fn(&(&Endpoint, SocketAddr)) -> bool| {
            let usable =
                tiers.iter().map(|tier| tier.iter().copied().filter(|f| wanted(f)).collect::<Vec<_>>());
            usable.into_iter().find(|tier| !tier.is_empty())
        };
        if let Some(tier) = best(&fresh).or_else(|| best(&settled)) {
            let resolutions = tier.into_iter().map(|(e, target)| {
                if [15001, 15006, 15008].contains(&target.port()) {
                    return Resolution::Refuse(Refusal::ProxyPort(target));
                }
                Self::route(target, self.behind(e, target.ip()).flatten(), Some(service))
            });
            let sticky = service.session_affinity.is_some() && !call.caller.addresses().is_empty();
            return match sticky {
                true => Expected::AlwaysTheSameOf(resolutions.collect()),
                false => Expected::OneOf(resolutions.collect()),
            };
        }
        if tiers.iter().any(|tier| !tier.is_empty()) {
            return Expected::Exactly(Resolution::Unknown);
        }
        let (name, port) = (service.name.clone(), port.port);
        let family = Family::of(called.ip());
        Expected::Exactly(Resolution::Refuse(match (mine.is_empty(), others.is_empty()) {
            (false, _) => Refusal::NoLocalEndpoint { service: name, port, node: call.caller.node().clone() },
            (true, false) => Refusal::NoEndpointOfFamily { service: name, port, family },
            (true, true) => Refusal::NoEndpoint { service: name, port },
        }))
    }

    /// Who is at an endpoint, if that is known for sure.
    fn behind(&self, endpoint: &Endpoint, ip: IpAddr) -> Option<Option<&Arc<Workload>>> {
        let there = self.workload_by_ip(ip);
        let Some(name) = &endpoint.workload else {
            return if there.is_none() && self.in_mesh_networks(ip) { None } else { Some(there) };
        };
        if there.is_some_and(|w| w.name() == name) {
            return Some(there);
        }
        self.workloads.get(name).filter(|w| w.host_network() && !w.finished()).map(Some)
    }

    fn in_scope(&self, scope: &PolicyScope, home: &str, workload: &Workload) -> bool {
        let same = workload.namespace().as_ref() == home;
        match scope {
            PolicyScope::Mesh => true,
            PolicyScope::Namespace => same,
            PolicyScope::Selector(wanted) => {
                (same || home == ROOT)
                    && wanted.iter().all(|pair| workload.has_labels(std::slice::from_ref(pair)))
            }
            PolicyScope::Services(names) => {
                let mine = names.iter().filter(|name| name.namespace.as_ref() == home);
                same && mine.filter_map(|name| self.services.get(name)).any(|s| self.serves(workload, s))
            }
            PolicyScope::Elsewhere => false,
        }
    }

    pub(super) fn policies_for(&self, workload: &Workload) -> Vec<Arc<AuthorizationPolicy>> {
        let applies = |p: &&Arc<AuthorizationPolicy>| self.in_scope(&p.scope, &p.name.namespace, workload);
        self.authorizations.values().filter(applies).cloned().collect()
    }

    pub(super) fn mtls_mode(&self, workload: &Workload, port: u16) -> (MtlsMode, Option<NamespacedName>) {
        let applying: Vec<_> = self
            .authentications
            .values()
            .filter(|p| self.in_scope(&p.scope, &p.name.namespace, workload))
            .collect();
        let selecting = |p: &PeerAuthentication| matches!(p.scope, PolicyScope::Selector(_));
        let own = |p: &PeerAuthentication| p.name.namespace == *workload.namespace();
        let classes: [&dyn Fn(&PeerAuthentication) -> bool; 5] = [
            &|p| selecting(p) && own(p),
            &|p| selecting(p) && !own(p),
            &|p| p.scope == PolicyScope::Namespace,
            &|p| p.scope == PolicyScope::Mesh,
            &|p| matches!(p.scope, PolicyScope::Services(_)),
        ];
        for class in classes {
            for policy in applying.iter().filter(|p| class(p)) {
                let of_port = policy.ports.iter().find(|(p, _)| selecting(policy) && *p == port);
                if let Some(mode) = of_port.and_then(|(_, mode)| *mode).or(policy.mode) {
                    return (mode, Some(policy.name.clone()));
                }
            }
        }
        (MtlsMode::Permissive, None)
    }

    pub(super) fn authorize(&self, access: &Access<'_>) -> Verdict {
        let policies = self.policies_for(access.destination);
        let matching = |action: Action| -> BTreeSet<Option<String>> {
            let of_action = policies.iter().filter(|p| p.action == action);
            let hit = of_action.filter_map(|p| {
                let rule = p.rules.iter().position(|r| rule_matches(r, action, access))?;
                Some(Some(format!("AuthorizationPolicy {} rule {rule}", p.name)))
            });
            hit.collect()
        };
        let audited = matching(Action::Audit).into_iter().flatten().collect();
        let verdict = |reason, by| Verdict { reason, by, audited };
        let (mode, by) = self.mtls_mode(access.destination, access.address.port());
        if access.identity.is_none() && mode == MtlsMode::Strict {
            let by = by.map(|name| format!("PeerAuthentication {name}"));
            return verdict(Some(DenialReason::StrictMtls), [by].into());
        }
        let (deny, unknown, allow) =
            (matching(Action::Deny), matching(Action::Unknown), matching(Action::Allow));
        if !deny.is_empty() {
            return verdict(Some(DenialReason::DenyPolicy), deny);
        }
        if !unknown.is_empty() {
            return verdict(Some(DenialReason::UnknownPolicy), unknown);
        }
        let allowing: Vec<_> = policies.iter().filter(|p| p.action == Action::Allow).collect();
        match (allowing.as_slice(), allow.is_empty()) {
            ([], _) => verdict(None, [None].into()),
            (_, false) => verdict(None, allow),
            ([only], true) => {
                let by = Some(format!("AuthorizationPolicy {}", only.name));
                verdict(Some(DenialReason::NoAllowMatch), [by].into())
            }
            (_, true) => verdict(Some(DenialReason::NoAllowMatch), [None].into()),
        }
    }
}

fn rule_matches(rule: &Rule, action: Action, access: &Access<'_>) -> bool {
    if rule.l7 && action == Action::Allow {
        return false;
    }
    for clause in &rule.clauses {
        let mut holds = rule.l7 && clause.0.is_empty();
        for alternative in &clause.0 {
            let empty = *alternative == Match::default();
            holds |= if empty { rule.l7 } else { match_holds(alternative, access) };
        }
        if !holds {
            return false;
        }
    }
    true
}

fn match_holds(m: &Match, access: &Access<'_>) -> bool {
    let texts = |wanted: &[StringMatch], not: &[StringMatch], text: &dyn Fn(&Identity) -> String| {
        let text = access.identity.map(text);
        let any =
            |list: &[StringMatch]| text.as_ref().is_some_and(|text| list.iter().any(|s| s.matches(text)));
        (wanted.is_empty() || any(wanted)) && !any(not)
    };
    let nets = |wanted: &[ipnet::IpNet], not: &[ipnet::IpNet], ip: IpAddr| {
        let any = |list: &[ipnet::IpNet]| list.iter().any(|net| net.contains(&ip.to_canonical()));
        (wanted.is_empty() || any(wanted)) && !any(not)
    };
    let port = access.address.port();
    texts(&m.principals, &m.not_principals, &|id| id.to_string().replace("spiffe://", ""))
        && texts(&m.namespaces, &m.not_namespaces, &|id| id.namespace.to_string())
        && texts(&m.service_accounts, &m.not_service_accounts, &|id| {
            format!("{}/{}", id.namespace, id.service_account)
        })
        && nets(&m.source_ips, &m.not_source_ips, access.source)
        && nets(&m.destination_ips, &m.not_destination_ips, access.address.ip())
        && (m.destination_ports.is_empty() || m.destination_ports.contains(&port))
        && !m.not_destination_ports.contains(&port)
}
