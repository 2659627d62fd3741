//! What the mesh needs of each Kubernetes object, read from that object alone, and the store of them.
//!
//! All that depends on several objects (is a pod in the mesh, which pods serve a Service) is left to
//! [`translate`](crate::translate). So an object is looked at once, when it changes, and a source may deliver objects
//! in any order.

mod access;
mod endpoints;
mod meta;
mod node;
mod pod;
mod policy;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aquifer_model::{AuthorizationPolicy, EndpointSlice, Node, PeerAuthentication, Pool};

pub(crate) use access::ONLY_HTTP;
pub use access::{authorization_policy, deny_all, peer_authentication, strict};
pub(crate) use endpoints::MAX_ENDPOINTS;
pub use endpoints::endpoint_slice;
pub use meta::{Meta, MetaError};
pub use node::{Namespace, namespace, node};
pub use pod::{OptIn, Pod, PodPort, pod};
pub use policy::scope;
pub(crate) use policy::whole;
pub use service::{Family, ServiceFacts, TargetPort, service};

/// A Kubernetes kind that the mesh reads. The policies of the two API groups are kinds of their own: they may have
/// the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say it.
pub enum Kind {
    Namespace,
    Node,
    ServiceAccount,
    Pod,
    Service,
    EndpointSlice,
    AuthorizationPolicy,
    PeerAuthentication,
    /// Of `security.istio.io`.
    IstioAuthorizationPolicy,
    /// Of `security.istio.io`.
    IstioPeerAuthentication,
}

/// Which object. Ordered by namespace first, so that all that a namespace has stands together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace; for a Namespace its own name, for a Node empty.
    pub namespace: Arc<str>,
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
}

/// What the mesh needs of one Kubernetes object.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The names say it.
pub enum Object {
    Namespace(Namespace),
    Node(Arc<Node>),
    ServiceAccount,
    Pod(Arc<Pod>),
    Service(Arc<ServiceFacts>),
    EndpointSlice(Arc<EndpointSlice>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
}

impl Object {
    /// Holds what it has in common with others once; does nothing where somebody else holds the object already.
    pub(crate) fn share(&mut self, pool: &mut Pool) {
        match self {
            Self::Pod(pod) => {
                if let Some(pod) = Arc::get_mut(pod) {
                    pod.workload = pool.workload(pod.workload.clone());
                }
            }
            Self::EndpointSlice(slice) => {
                if let Some(slice) = Arc::get_mut(slice) {
                    pool.slice(slice);
                }
            }
            _ => {}
        }
    }
}

/// All objects of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    by_key: BTreeMap<Key, Object>,
}

/// How many objects there are of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<Kind, usize>);

impl Kind {
    /// Its `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::AuthorizationPolicy | Self::IstioAuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication | Self::IstioPeerAuthentication => "PeerAuthentication",
        }
    }

    /// Whether it decides about access: what cannot be read of it must close a door, not open one.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::AuthorizationPolicy
                | Self::PeerAuthentication
                | Self::IstioAuthorizationPolicy
                | Self::IstioPeerAuthentication
        )
    }

    /// Whether its objects live outside namespaces.
    pub fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::Namespace | Self::Node)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Key {
    /// The key of an object; `namespace` is not looked at for kinds that live outside namespaces.
    pub fn new(kind: Kind, namespace: &Arc<str>, name: &Arc<str>) -> Self {
        let namespace = match kind {
            Kind::Namespace => name.clone(),
            Kind::Node => "".into(),
            _ => namespace.clone(),
        };
        Self { namespace, kind, name: name.clone() }
    }
}

/// As `kubectl` would say it: `Pod shop/cart-0`, `Node worker-1`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_cluster_scoped() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Objects {
    /// Puts an object in the place of what had its key.
    pub fn insert(&mut self, key: Key, object: Object) -> Option<Object> {
        self.by_key.insert(key, object)
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &Key) -> Option<Object> {
        self.by_key.remove(key)
    }

    /// One object.
    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.by_key.get(key)
    }

    /// All objects, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Object)> {
        self.by_key.iter()
    }

    /// The objects of a namespace, with the Namespace itself; the Nodes for the empty name.
    pub fn of_namespace<'a>(
        &'a self,
        namespace: &'a Arc<str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Object)> {
        let first = Key { namespace: namespace.clone(), kind: Kind::Namespace, name: "".into() };
        self.by_key.range(first..).take_while(move |(key, _)| key.namespace == *namespace)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// How many there are of each kind.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for key in self.by_key.keys() {
            *counts.0.entry(key.kind).or_default() += 1;
        }
        counts
    }
}
