//! Pods: a network namespace behind a node, with addresses, labels and a service account.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use aquifer_sys::{NetNs, link::Links};
use tokio::runtime::Handle;

use crate::bed::{Families, Namespace};

/// What a pod is to be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: usize,
    pub(crate) in_mesh: bool,
    pub(crate) families: Option<Families>,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) service_account: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) foreign: bool,
}

impl PodSpec {
    /// A pod `namespace/name` on the first node, in the mesh, with label `app: name`, service account `name`
    /// and all address families of the bed. A name without a slash is in namespace `default`.
    pub fn new(name: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        Self {
            namespace: namespace.into(),
            name: name.into(),
            node: 0,
            in_mesh: true,
            families: None,
            v4: None,
            v6: None,
            service_account: name.into(),
            labels: vec![("app".into(), name.into())],
            ports: Vec::new(),
            foreign: false,
        }
    }

    /// Puts it on the node of this index (0 is `node-1`).
    #[must_use]
    pub fn on(mut self, node: usize) -> Self {
        self.node = node;
        self
    }

    /// Keeps it out of the mesh (`aquifer.dev/mesh: none`).
    #[must_use]
    pub fn outside_the_mesh(mut self) -> Self {
        self.in_mesh = false;
        self
    }

    /// Says in its manifest that it runs on a node where no Aquifer is: it is in the mesh, and whoever listens on its port
    /// 15008 speaks for it.
    #[must_use]
    pub fn served_by_another(mut self) -> Self {
        self.foreign = true;
        self
    }

    /// Gives it only these address families.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = Some(families);
        self
    }

    /// Gives it this address instead of the node's next one, as a new pod that got an old pod's address.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.v4 = Some(address),
            IpAddr::V6(address) => self.v6 = Some(address),
        }
        self
    }

    /// Sets the service account, and by it the identity.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        self.service_account = name.into();
        self
    }

    /// Sets a label, in place of one with the same key.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.retain(|(present, _)| present != key);
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Names a container port, for Services with a named target port.
    #[must_use]
    pub fn named_port(mut self, name: &str, port: u16) -> Self {
        self.ports.push((name.into(), port));
        self
    }
}

/// A pod of a [`Bed`](crate::Bed). Clones are the same pod.
#[derive(Clone, Debug)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) spec: PodSpec,
    pub(crate) uid: String,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) namespace: Namespace,
    /// Name of the node's end of the pod's cable.
    pub(crate) port: String,
    pub(crate) node: NetNs,
    pub(crate) runtime: Handle,
}

impl Pod {
    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.inner.spec.namespace, self.inner.spec.name)
    }

    /// Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.inner.spec.namespace
    }

    /// Name within its namespace.
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// `metadata.uid`, another one for each pod of the same name.
    pub fn uid(&self) -> &str {
        &self.inner.uid
    }

    /// Service account.
    pub fn service_account(&self) -> &str {
        &self.inner.spec.service_account
    }

    /// Its identity, in trust domain `cluster.local`.
    pub fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace(), self.service_account())
    }

    /// Labels, without those that say whether it is in the mesh.
    pub fn labels(&self) -> &[(String, String)] {
        &self.inner.spec.labels
    }

    /// Index of its node.
    pub fn node(&self) -> usize {
        self.inner.spec.node
    }

    /// Whether it was made to be in the mesh.
    pub fn in_mesh(&self) -> bool {
        self.inner.spec.in_mesh
    }

    /// Whether Aquifer is to capture it: it is in the mesh, and its manifest names a node of the bed.
    pub fn is_captured(&self) -> bool {
        self.in_mesh() && !self.inner.spec.foreign
    }

    /// Kubernetes name of its node, as its manifest says it.
    pub fn node_name(&self) -> String {
        if self.inner.spec.foreign { "elsewhere".into() } else { format!("node-{}", self.node() + 1) }
    }

    /// Its first address: v4 where it has one, else v6.
    pub fn ip(&self) -> IpAddr {
        self.addresses().next().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Its IPv4 address.
    ///
    /// # Panics
    /// Where the scenario gave it none.
    pub fn v4(&self) -> IpAddr {
        self.inner.v4.map_or_else(|| panic!("{} has no IPv4 address", self.full_name()), IpAddr::V4)
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    /// Where the scenario gave it none.
    pub fn v6(&self) -> IpAddr {
        self.inner.v6.map_or_else(|| panic!("{} has no IPv6 address", self.full_name()), IpAddr::V6)
    }

    /// All its addresses, v4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.inner.v4.map(IpAddr::V4).into_iter().chain(self.inner.v6.map(IpAddr::V6))
    }

    /// Its network namespace.
    pub fn ns(&self) -> &NetNs {
        self.inner.namespace.ns()
    }

    /// Name of its network namespace, for `ip netns exec`.
    pub fn netns_name(&self) -> &str {
        self.inner.namespace.name()
    }

    /// File of its network namespace.
    pub fn netns_path(&self) -> PathBuf {
        self.inner.namespace.path()
    }

    /// Sets a sysctl inside the pod.
    pub fn sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        aquifer_sys::link::sysctl(self.ns(), key, value)
    }

    /// Starts a program inside the pod; its standard streams are the caller's choice.
    pub fn spawn(&self, command: &mut std::process::Command) -> io::Result<std::process::Child> {
        // A child starts in the namespace of the thread that forks it.
        self.ns().run(|| command.spawn())
    }

    /// The runtime that its applications run on.
    pub fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    /// The node's end of its cable: interface name, in the node's namespace.
    pub fn cable(&self) -> (&NetNs, &str) {
        (&self.inner.node, &self.inner.port)
    }

    /// Ends it as a node agent does: cable pulled, processes killed, namespace gone by name.
    pub(crate) fn remove(&self) {
        if self.inner.namespace.is_done() {
            return;
        }
        // A pod that is half gone already is what this is for.
        let _ = Links::open(&self.inner.node).and_then(|links| links.delete(&self.inner.port));
        self.inner.namespace.remove();
    }
}
