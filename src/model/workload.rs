//! Workloads (pods) and the nodes they run on.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::{Identity, NamespacedName, PodUid, TrustDomain, WorkloadName};

/// A pod, as far as the mesh is concerned.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Workload {
    /// Stable name, kept over recreation.
    pub name: WorkloadName,
    /// This incarnation.
    pub uid: PodUid,
    /// Namespace and name of the Pod object.
    pub pod: NamespacedName,
    /// Trust domain of its identity.
    pub trust_domain: TrustDomain,
    /// `spec.serviceAccountName`, `default` where empty.
    pub service_account: Arc<str>,
    /// `status.podIPs`. A host-network pod has none of its own: its addresses are the node's.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// `spec.nodeName`; empty while unscheduled.
    pub node: Arc<str>,
    /// The pod's labels, sorted by key.
    pub labels: Arc<[(Arc<str>, Arc<str>)]>,
    /// Named container ports, for Services and policies that name a target port.
    pub named_ports: Arc<[(Arc<str>, u16)]>,
    /// What owns it, by Istio's rule: (`deployment`, `reviews-v1`), or (`pod`, its own name).
    pub owner: (Arc<str>, Arc<str>),
    /// Istio's canonical service name (label `service.istio.io/canonical-name`,
    /// `app.kubernetes.io/name`, `app`, else the owner's name).
    pub canonical_name: Arc<str>,
    /// Istio's canonical revision (`service.istio.io/canonical-revision`, `app.kubernetes.io/version`,
    /// `version`, else `latest`).
    pub canonical_revision: Arc<str>,
    /// Whether it is in the mesh.
    pub membership: Membership,
    /// Its sockets live in the node's own network namespace; never captured, never called through a tunnel.
    pub host_network: bool,
    /// Network namespace, where a source knows it (standalone: annotation `aquifer.dev/netns`).
    pub netns: Option<PathBuf>,
    /// It has a deletion timestamp.
    pub terminating: bool,
    /// Its process is over (`Succeeded` or `Failed`): it has no namespace any more.
    pub finished: bool,
}

/// The two facts of being in the mesh: what the label wants, and what a node has proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// No label asks for it.
    Outside,
    /// The label asks for it, no node has reported it enrolled yet. With YAML alone this counts as in the mesh,
    /// and a refused 15008 is dialled again for 5 s.
    Desired,
    /// A node reported it enrolled. Plaintext towards it is never right again while that holds.
    Proven,
}

/// A node: where it is, and which pod networks it owns.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `topology.kubernetes.io/region`, empty where unlabelled.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`, empty where unlabelled.
    pub zone: Arc<str>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

impl Workload {
    /// The identity its certificate carries.
    pub fn identity(&self) -> Identity {
        Identity::new(self.trust_domain.clone(), self.pod.namespace.clone(), self.service_account.clone())
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        Some(&self.labels[found].1)
    }

    /// Whether it carries all of `labels`.
    pub fn has_labels(&self, labels: &[(Arc<str>, Arc<str>)]) -> bool {
        labels.iter().all(|(key, value)| self.label(key) == Some(value))
    }

    /// Whether peers should reach it through a tunnel.
    pub fn in_mesh(&self) -> bool {
        self.membership != Membership::Outside && !self.host_network && !self.finished
    }

    /// The port number of a named container port.
    pub fn named_port(&self, name: &str) -> Option<u16> {
        self.named_ports.iter().find(|(n, _)| n.as_ref() == name).map(|(_, port)| *port)
    }
}
