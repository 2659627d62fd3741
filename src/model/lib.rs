//! The mesh as data, and the three questions asked of it: where does a connection go ([`resolve`]), may it
//! ([`authorize`]), and which endpoint takes it ([`pick`]). Pure: no clock, no IO, no randomness of its own.

mod identity;
mod mesh;
mod names;
mod policy;
mod service;
mod update;
mod workload;

pub use identity::{Identity, IdentityError, TrustDomain};
pub use names::{NamespacedName, PodUid, WorkloadName};
pub use policy::{
    Action, AuthorizationPolicy, Clause, Match, MtlsMode, PeerAuthentication, PolicyScope, PortSet, Rule,
    StringMatch,
};
pub use service::{
    Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort, TrafficDistribution,
};
pub use update::{Change, Update, WorkloadChange};
pub use workload::{Membership, Node, Workload};
