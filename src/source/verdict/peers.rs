//! PeerAuthentications: only one decides at a port of a pod. The narrowest does; among equals the first by name.

use std::collections::BTreeSet;

use aquifer_model::{MtlsMode, PeerAuthentication, PolicyScope, Workload};

use super::{CONFLICTED, ENFORCED, Ground, Selected, Verdict, pods, reason, some};

/// Others that are looked at for a conflict, and ports that are looked at for who decides: a message names fewer, and who makes more
/// of them than this in one namespace is told of these.
const RIVALS: usize = 100;

impl Ground<'_> {
    pub(super) fn peer_enforced(&self, peer: &PeerAuthentication, selected: &Selected<'_>) -> Verdict {
        if !speaks(peer) {
            let found = "says UNSET everywhere: the mode is left to the wider scope";
            return Verdict::new(ENFORCED, true, reason::ENFORCED, found);
        }
        let (whole, told) = self.decides(peer, selected);
        let place = selected.place();
        let note = disable(peer);
        if whole == selected.inside.len() {
            return Verdict::new(ENFORCED, true, reason::ENFORCED, format!("is enforced {place}{note}"));
        }
        let mend = "where it is to decide, take its field out of the narrower ones, or remove the others of its scope";
        let (reason, found) = match whole {
            0 => (
                reason::OVERRIDDEN,
                format!("decides at none of {};{told}{note}", pods(selected.inside.len())),
            ),
            _ => (reason::PARTLY_ENFORCED, format!("is enforced {place}, but{told}{note}")),
        };
        Verdict::new(ENFORCED, false, reason, found).mend(mend)
    }

    /// At how many pods all that it says decides, and what is to be said of the others.
    pub(super) fn decides(&self, peer: &PeerAuthentication, selected: &Selected<'_>) -> (usize, String) {
        let ports = self.ports(peer);
        let (mut whole, mut others) = (0, BTreeSet::new());
        for pod in &selected.inside {
            let mut own = true;
            for port in &ports {
                match self.mesh.mtls_mode(pod, *port).1 {
                    Some(name) if name == peer.name => {}
                    Some(name) => {
                        own = false;
                        others.insert(name);
                    }
                    None => own = false,
                }
            }
            whole += usize::from(own);
        }
        if whole == selected.inside.len() {
            return (whole, String::new());
        }
        let others: Vec<String> = others.iter().map(|name| format!("PeerAuthentication {name}")).collect();
        let rest = pods(selected.inside.len() - whole);
        (whole, format!(" at {rest} others decide, wholly or at some ports: {}", some(&others, ", ")))
    }

    /// The ports that it says something of: 0 for all that nobody names.
    fn ports(&self, peer: &PeerAuthentication) -> BTreeSet<u16> {
        let own = peer.ports.iter().filter(|(_, mode)| mode.is_some()).map(|(port, _)| *port);
        let mut ports: BTreeSet<u16> = own.take(RIVALS).collect();
        if peer.mode.is_some() {
            ports.insert(0);
            let near = self.peers.iter().filter(|other| {
                peer.scope == PolicyScope::Mesh
                    || *peer.name.namespace == *self.root
                    || other.name.namespace == peer.name.namespace
                    || *other.name.namespace == *self.root
            });
            ports.extend(near.flat_map(|other| &other.ports).map(|(port, _)| *port).take(RIVALS));
        }
        ports
    }

    /// Another of the same scope that says something, too.
    pub(super) fn conflict(&self, peer: &PeerAuthentication) -> Option<Verdict> {
        if !speaks(peer) {
            return None;
        }
        let from = self.peers.partition_point(|other| other.name.namespace < peer.name.namespace);
        let others =
            self.peers.iter().skip(from).take_while(|other| other.name.namespace == peer.name.namespace);
        let others = others.filter(|other| other.name != peer.name && speaks(other)).take(RIVALS);
        let rivals: Vec<&PeerAuthentication> =
            others.filter(|other| self.share(peer, other)).copied().collect();
        if rivals.is_empty() {
            return None;
        }
        let names: Vec<String> = rivals.iter().map(|rival| rival.name.to_string()).collect();
        let first = rivals.iter().map(|rival| &rival.name).min().filter(|name| **name < peer.name);
        let who = match first {
            None => "it decides where they overlap".to_owned(),
            Some(first) => format!("{first} decides where they overlap"),
        };
        let found = format!(
            "has the same scope as PeerAuthentication {}; among equals the first by name decides: {who}",
            some(&names, ", ")
        );
        let mend = "keep one of them, or let their selectors select different pods";
        Some(Verdict::new(CONFLICTED, true, reason::SAME_SCOPE, found).mend(mend))
    }

    /// Whether two of one namespace have a scope of the same rank that meets.
    fn share(&self, one: &PeerAuthentication, other: &PeerAuthentication) -> bool {
        match (&one.scope, &other.scope) {
            (PolicyScope::Mesh, PolicyScope::Mesh) | (PolicyScope::Namespace, PolicyScope::Namespace) => true,
            (PolicyScope::Selector(labels), PolicyScope::Selector(others)) => {
                let both = |pod: &Workload| self.mesh.applies(&other.name, &other.scope, pod);
                labels == others || self.selected(&one.name, &one.scope).inside.iter().any(|pod| both(pod))
            }
            _ => false,
        }
    }
}

/// Whether it says something at all.
fn speaks(peer: &PeerAuthentication) -> bool {
    peer.mode.is_some() || peer.ports.iter().any(|(_, mode)| mode.is_some())
}

fn disable(peer: &PeerAuthentication) -> &'static str {
    let modes = || peer.mode.into_iter().chain(peer.ports.iter().filter_map(|(_, mode)| *mode));
    match modes().any(|mode| mode == MtlsMode::Disable) {
        true => "; DISABLE lets plaintext in, and pods of the mesh call by mutual TLS all the same",
        false => "",
    }
}
