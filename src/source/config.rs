//! What the translation of objects needs to know that no object says.

use std::sync::Arc;

use aquifer_k8s::names;
use aquifer_model::TrustDomain;

/// Settings of the translation, the same for all objects of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslateConfig {
    /// First part of each [`WorkloadName`](aquifer_model::WorkloadName); Istio's default is `Kubernetes`.
    pub cluster_id: Arc<str>,
    /// Last part of service host names: `NAME.NAMESPACE.svc.CLUSTER-DOMAIN`.
    pub cluster_domain: Arc<str>,
    /// Trust domain of every workload's identity.
    pub trust_domain: TrustDomain,
    /// Namespace whose policies apply to the whole mesh.
    pub root_namespace: Arc<str>,
}

impl Default for TranslateConfig {
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: TrustDomain::default(),
            root_namespace: names::SYSTEM_NAMESPACE.into(),
        }
    }
}
