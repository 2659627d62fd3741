//! The mesh as data, and the three questions asked of it: where does a connection go ([`Snapshot::resolve`]), may it
//! ([`Snapshot::authorize`]), and which endpoint takes it (a part of the first). Pure: no clock, no IO, and what
//! randomness a choice needs is an argument.

mod addresses;
mod authorize;
mod buckets;
mod claims;
#[cfg(test)]
mod fixtures;
mod identity;
mod mesh;
mod names;
mod networks;
mod pick;
mod policy;
mod pool;
#[cfg(test)]
mod properties;
mod resolve;
mod scope;
mod service;
mod snapshot;
mod uid;
mod update;
mod workload;

pub use addresses::Addresses;
/// A text that costs one pointer where it is held, and nothing to be held again.
pub use arcstr::ArcStr as Text;
pub use authorize::{Access, Denial, DenialReason, Permit, PolicyKind, RuleRef};
pub use identity::{Identity, IdentityError, TrustDomain};
pub use mesh::{Mesh, MeshConfig};
pub use names::{NamespacedName, PodName, PodRef, WorkloadName};
pub use policy::{
    Action, AuthorizationPolicy, Clause, Match, MtlsMode, PeerAuthentication, PolicyScope, PortSet, Rule,
    StringMatch,
};
pub use pool::Pool;
pub use resolve::{Call, Carrier, Family, PROXY_PORTS, Passthrough, Refusal, Resolution, Route};
pub use service::{
    Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort, TrafficDistribution,
};
pub use snapshot::Snapshot;
pub use uid::PodUid;
pub use update::{Change, Update, WorkloadChange, difference};
pub use workload::{Membership, Node, Workload, WorkloadFacts};
