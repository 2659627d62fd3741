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

/// The pod's condition Ready, where it is true.
pub fn ready(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub use policy::{
    AuthorizationPolicy, AuthorizationPolicySpec, Condition, MutualTls, Operation, PeerAuthentication,
    PeerAuthenticationSpec, Provider, Rule, RuleFrom, RuleTo, Selector, Source, TargetRef,
};
