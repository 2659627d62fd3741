//! Kubernetes as Aquifer reads it, without mesh logic: names of labels and annotations, our policy kinds, and the
//! Kubernetes kinds that are used.

pub mod names;
mod policy;

pub use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Node, Pod, PodCondition, Service, ServiceAccount, ServicePort,
    ServiceSpec,
};
pub use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    Condition as StatusCondition, ObjectMeta, OwnerReference, Time,
};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub use policy::{
    AuthorizationPolicy, AuthorizationPolicySpec, Condition, MutualTls, Operation, PeerAuthentication,
    PeerAuthenticationSpec, Provider, Rule, RuleFrom, RuleTo, Selector, Source, TargetRef,
};
