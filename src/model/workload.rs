//! Workloads (pods) and the nodes they run on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Addresses, Identity, PodRef, PodUid, Text, TrustDomain, WorkloadName};

/// A pod, as far as the mesh is concerned; made of [`WorkloadFacts`], best by a [`Pool`](crate::Pool).
///
/// A node knows a hundred thousand of them, so it is small: 88 bytes, while all that pods of one make have in common is
/// held once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    name: WorkloadName,
    uid: PodUid,
    addresses: Addresses,
    node: Text,
    /// Only pods of the node itself have one that is known.
    netns: Option<Arc<PathBuf>>,
    pub(crate) make: Arc<Make>,
}

/// What pods of one make have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Make {
    pub(crate) identity: Identity,
    pub(crate) labels: Box<[(Text, Text)]>,
    pub(crate) named_ports: Box<[(Text, u16)]>,
    pub(crate) owner: (Text, Text),
    pub(crate) canonical_name: Text,
    pub(crate) canonical_revision: Text,
    membership: Membership,
    host_network: bool,
    terminating: bool,
    finished: bool,
}

/// All that is said of a pod, field by field: becomes a [`Workload`], and comes back from [`Workload::facts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadFacts {
    /// Stable name, kept over recreation. Its last part is the name of the Pod object.
    pub name: WorkloadName,
    /// This incarnation.
    pub uid: PodUid,
    /// Namespace of the Pod object, and of its identity.
    pub namespace: Arc<str>,
    /// Trust domain of its identity.
    pub trust_domain: TrustDomain,
    /// `spec.serviceAccountName`, `default` where empty.
    pub service_account: Arc<str>,
    /// `status.podIPs`. A host-network pod has none of its own: its addresses are the node's.
    pub addresses: Addresses,
    /// `spec.nodeName`; empty while unscheduled.
    pub node: Text,
    /// The pod's labels.
    pub labels: Vec<(Text, Text)>,
    /// Named container ports, for Services and policies that name a target port.
    pub named_ports: Vec<(Text, u16)>,
    /// What owns it, by Istio's rule: (`deployment`, `reviews-v1`). `None`: the pod itself, (`pod`, its own name).
    pub owner: Option<(Text, Text)>,
    /// Istio's canonical service name (label `service.istio.io/canonical-name`,
    /// `app.kubernetes.io/name`, `app`). `None`: the owner's name.
    pub canonical_name: Option<Text>,
    /// Istio's canonical revision (`service.istio.io/canonical-revision`, `app.kubernetes.io/version`,
    /// `version`, else `latest`).
    pub canonical_revision: Text,
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

/// The kind of the owner of a pod that owns itself.
const POD: Text = arcstr::literal!("pod");

impl From<WorkloadFacts> for Workload {
    fn from(mut facts: WorkloadFacts) -> Self {
        facts.labels.sort();
        let owner = facts.owner.unwrap_or_else(|| (POD, facts.name.name().to_string().into()));
        let canonical_name = facts.canonical_name.unwrap_or_else(|| owner.1.clone());
        let make = Make {
            identity: Identity::new(facts.trust_domain, facts.namespace, facts.service_account),
            labels: facts.labels.into(),
            named_ports: facts.named_ports.into(),
            owner,
            canonical_name,
            canonical_revision: facts.canonical_revision,
            membership: facts.membership,
            host_network: facts.host_network,
            terminating: facts.terminating,
            finished: facts.finished,
        };
        Self {
            name: facts.name,
            uid: facts.uid,
            addresses: facts.addresses,
            node: facts.node,
            netns: facts.netns.map(Arc::new),
            make: Arc::new(make),
        }
    }
}

impl Workload {
    /// All of it, to be changed and made into another.
    pub fn facts(&self) -> WorkloadFacts {
        let make = &self.make;
        WorkloadFacts {
            name: self.name.clone(),
            uid: self.uid.clone(),
            namespace: make.identity.namespace.clone(),
            trust_domain: make.identity.trust_domain.clone(),
            service_account: make.identity.service_account.clone(),
            addresses: self.addresses.clone(),
            node: self.node.clone(),
            labels: make.labels.to_vec(),
            named_ports: make.named_ports.to_vec(),
            owner: Some(make.owner.clone()),
            canonical_name: Some(make.canonical_name.clone()),
            canonical_revision: make.canonical_revision.clone(),
            membership: make.membership,
            host_network: make.host_network,
            netns: self.netns.as_deref().cloned(),
            terminating: make.terminating,
            finished: make.finished,
        }
    }

    /// Stable name, kept over recreation.
    pub fn name(&self) -> &WorkloadName {
        &self.name
    }

    /// This incarnation.
    pub fn uid(&self) -> &PodUid {
        &self.uid
    }

    /// Namespace and name of the Pod object.
    pub fn pod(&self) -> PodRef<'_> {
        PodRef { namespace: self.namespace(), name: self.name.name() }
    }

    /// Namespace of the Pod object, and of its identity.
    pub fn namespace(&self) -> &Arc<str> {
        &self.make.identity.namespace
    }

    /// The identity its certificate carries.
    pub fn identity(&self) -> Identity {
        self.make.identity.clone()
    }

    /// `status.podIPs`. A host-network pod has none of its own: its addresses are the node's.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// `spec.nodeName`; empty while unscheduled.
    pub fn node(&self) -> &Text {
        &self.node
    }

    /// Its labels, sorted by key.
    pub fn labels(&self) -> &[(Text, Text)] {
        &self.make.labels
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&Text> {
        let found = self.labels().binary_search_by(|(k, _)| k.as_str().cmp(key)).ok()?;
        Some(&self.labels()[found].1)
    }

    /// Whether it carries all of `labels`.
    pub fn has_labels(&self, labels: &[(Arc<str>, Arc<str>)]) -> bool {
        labels.iter().all(|(key, value)| self.label(key).is_some_and(|own| own.as_str() == &**value))
    }

    /// Named container ports.
    pub fn named_ports(&self) -> &[(Text, u16)] {
        &self.make.named_ports
    }

    /// The port number of a named container port.
    pub fn named_port(&self, name: &str) -> Option<u16> {
        self.named_ports().iter().find(|(n, _)| n == name).map(|(_, port)| *port)
    }

    /// What owns it, kind and name: (`deployment`, `reviews-v1`), or (`pod`, its own name).
    pub fn owner(&self) -> (&str, &Text) {
        let (kind, name) = &self.make.owner;
        (kind, name)
    }

    /// Istio's canonical service name.
    pub fn canonical_name(&self) -> &Text {
        &self.make.canonical_name
    }

    /// Istio's canonical revision.
    pub fn canonical_revision(&self) -> &Text {
        &self.make.canonical_revision
    }

    /// Whether it is in the mesh, as far as labels and nodes say.
    pub fn membership(&self) -> Membership {
        self.make.membership
    }

    /// Its sockets live in the node's own network namespace.
    pub fn host_network(&self) -> bool {
        self.make.host_network
    }

    /// Network namespace, where a source knows it.
    pub fn netns(&self) -> Option<&Path> {
        self.netns.as_deref().map(PathBuf::as_path)
    }

    /// It has a deletion timestamp.
    pub fn terminating(&self) -> bool {
        self.make.terminating
    }

    /// Its process is over.
    pub fn finished(&self) -> bool {
        self.make.finished
    }

    /// Whether peers should reach it through a tunnel.
    pub fn in_mesh(&self) -> bool {
        self.make.membership != Membership::Outside && !self.make.host_network && !self.make.finished
    }

    /// The same pod, in the mesh or not.
    pub fn with_membership(&self, membership: Membership) -> Self {
        let make = match self.make.membership == membership {
            true => self.make.clone(),
            false => Arc::new(Make { membership, ..(*self.make).clone() }),
        };
        Self { make, ..self.clone() }
    }

    pub(crate) fn share(&mut self, shared: impl FnMut(&mut Text)) {
        let mut shared = shared;
        shared(&mut self.node);
        self.name.share(shared);
    }
}

/// With the fields of [`WorkloadFacts`], and the pod's namespace and name together.
impl serde::Serialize for Workload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        #[serde(rename = "Workload")]
        struct Shown<'a> {
            name: &'a WorkloadName,
            uid: &'a PodUid,
            pod: PodRef<'a>,
            trust_domain: &'a TrustDomain,
            service_account: &'a str,
            addresses: &'a Addresses,
            node: &'a str,
            labels: &'a [(Text, Text)],
            named_ports: &'a [(Text, u16)],
            owner: (&'a str, &'a Text),
            canonical_name: &'a str,
            canonical_revision: &'a str,
            membership: Membership,
            host_network: bool,
            netns: Option<&'a Path>,
            terminating: bool,
            finished: bool,
        }
        Shown {
            name: &self.name,
            uid: &self.uid,
            pod: self.pod(),
            trust_domain: &self.make.identity.trust_domain,
            service_account: &self.make.identity.service_account,
            addresses: &self.addresses,
            node: &self.node,
            labels: self.labels(),
            named_ports: self.named_ports(),
            owner: self.owner(),
            canonical_name: self.canonical_name(),
            canonical_revision: self.canonical_revision(),
            membership: self.membership(),
            host_network: self.host_network(),
            netns: self.netns(),
            terminating: self.terminating(),
            finished: self.finished(),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::pod;

    #[test]
    fn it_is_small() {
        assert!(size_of::<Workload>() <= 88, "{}", size_of::<Workload>());
    }

    #[test]
    fn one_that_owns_itself_is_the_same_however_that_is_told() {
        let plain = pod("shop/cart", &["10.1.0.1"]);
        let mut facts = plain.facts();
        facts.owner = Some(("pod".into(), "cart".into()));
        facts.canonical_name = Some("cart".into());
        assert_eq!(Workload::from(facts), plain);
        assert_eq!((plain.owner(), plain.canonical_name().as_str()), (("pod", &"cart".into()), "cart"));
    }

    #[test]
    fn facts_lead_back_to_it() {
        let mut facts = pod("shop/cart", &["10.1.0.1", "fd00::1"]).facts();
        facts.owner = Some(("deployment".into(), "carts".into()));
        facts.canonical_name = None;
        facts.netns = Some("/var/run/netns/cart".into());
        facts.labels = vec![("app".into(), "cart".into())];
        let workload = Workload::from(facts);
        assert_eq!(Workload::from(workload.facts()), workload);
        assert_eq!(workload.canonical_name(), "carts");
    }
}
