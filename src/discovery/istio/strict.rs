//! STRICT mutual TLS as policies: a denial of callers without identity, on the ports where it holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use aquifer_model::{MtlsMode, NamespacedName, PeerAuthentication, PolicyScope, Snapshot, Workload};

use crate::proto::security as wire;
use crate::version::version;

/// Ports that a name says one by one.
const NAMED: usize = 8;

/// Where a workload demands mutual TLS, if anywhere. Workloads that demand the same share a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Strict {
    /// At all ports but these, or at these alone, which then are some.
    everywhere: bool,
    ports: BTreeSet<u16>,
}

/// PeerAuthentications that say something of single ports, by namespace.
#[derive(Debug, Default)]
pub(super) struct Peers(HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<PeerAuthentication>>>);

impl Peers {
    pub(super) fn put(&mut self, name: &NamespacedName, policy: Option<&Arc<PeerAuthentication>>) {
        let with_ports =
            policy.filter(|p| matches!(p.scope, PolicyScope::Selector(_)) && !p.ports.is_empty());
        if let Some(policy) = with_ports {
            let of = self.0.entry(name.namespace.clone()).or_default();
            of.insert(name.name.clone(), policy.clone());
        } else if let Some(of) = self.0.get_mut(&name.namespace) {
            of.remove(&name.name);
            if of.is_empty() {
                self.0.remove(&name.namespace);
            }
        }
    }

    /// What a workload demands; `None` where it takes everybody.
    pub(super) fn strict(&self, mesh: &Snapshot, workload: &Workload) -> Option<Strict> {
        let own = self.0.get(workload.namespace());
        let root =
            self.0.get(mesh.root_namespace()).filter(|_| mesh.root_namespace() != workload.namespace());
        let policies = own.into_iter().chain(root).flat_map(BTreeMap::values);
        let named: BTreeSet<u16> = policies
            .filter(|policy| mesh.applies(&policy.name, &policy.scope, workload))
            .flat_map(|policy| policy.ports.iter().map(|(port, _)| *port))
            .collect();
        let is_strict = |port: u16| mesh.mtls_mode(workload, port).0 == MtlsMode::Strict;
        // A port that nobody speaks of stands for all of them; of 65,536 a policy cannot name every one and this one, too.
        let other = (0..=u16::MAX).rev().find(|port| !named.contains(port));
        let everywhere = other.is_some_and(is_strict);
        let ports: BTreeSet<u16> = named.into_iter().filter(|port| is_strict(*port) != everywhere).collect();
        (everywhere || !ports.is_empty()).then_some(Strict { everywhere, ports })
    }
}

impl Strict {
    /// The name of its resource, in the root namespace. With `_`, so that it meets no object's.
    pub(super) fn name(&self, root: &str) -> Arc<str> {
        format!("{root}/{}", self.short()).into()
    }

    fn short(&self) -> String {
        let mut name = match (self.everywhere, self.ports.is_empty()) {
            (true, true) => "strict_mtls".to_owned(),
            (true, false) => "strict_mtls_except".to_owned(),
            (false, _) => "strict_mtls_at".to_owned(),
        };
        if self.ports.len() <= NAMED {
            self.ports.iter().for_each(|port| _ = write!(name, "_{port}"));
        } else {
            let bytes: Vec<u8> = self.ports.iter().flat_map(|port| port.to_be_bytes()).collect();
            _ = write!(name, "_{}_ports_{:016x}", self.ports.len(), version(&bytes));
        }
        name
    }

    pub(super) fn to_wire(&self, root: &str) -> wire::Authorization {
        let anybody = wire::StringMatch { match_type: Some(wire::string_match::MatchType::Presence(())) };
        let ports: Vec<u32> = self.ports.iter().map(|port| u32::from(*port)).collect();
        let (at, except) = if self.everywhere { (Vec::new(), ports) } else { (ports, Vec::new()) };
        let nobody = wire::Match {
            not_principals: vec![anybody],
            destination_ports: at,
            not_destination_ports: except,
            ..wire::Match::default()
        };
        wire::Authorization {
            name: self.short(),
            namespace: root.to_owned(),
            scope: wire::Scope::WorkloadSelector.into(),
            action: wire::Action::Deny.into(),
            rules: vec![wire::Rule { clauses: vec![wire::Clause { matches: vec![nobody] }] }],
        }
    }
}
