//! What is watched: the resources of the API server, each with the kind that it is to the mesh.

use aquifer_k8s::names;

use crate::object::Kind;

/// A resource of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    /// Empty for the core group.
    pub(super) group: &'static str,
    /// The version that is asked for first, and those after it.
    pub(super) versions: &'static [&'static str],
    /// The name in its path.
    pub(super) plural: &'static str,
}

const CORE: &[&str] = &["v1"];
const OURS: &[&str] = &[names::VERSION];

/// All that the mesh is made of. Service accounts are not read: nothing is decided by their objects.
pub(super) const RESOURCES: [Resource; 9] = [
    Resource { kind: Kind::Namespace, group: "", versions: CORE, plural: "namespaces" },
    Resource { kind: Kind::Node, group: "", versions: CORE, plural: "nodes" },
    Resource { kind: Kind::Pod, group: "", versions: CORE, plural: "pods" },
    Resource { kind: Kind::Service, group: "", versions: CORE, plural: "services" },
    Resource {
        kind: Kind::EndpointSlice,
        group: "discovery.k8s.io",
        versions: CORE,
        plural: "endpointslices",
    },
    Resource {
        kind: Kind::AuthorizationPolicy,
        group: names::GROUP,
        versions: OURS,
        plural: "authorizationpolicies",
    },
    Resource {
        kind: Kind::PeerAuthentication,
        group: names::GROUP,
        versions: OURS,
        plural: "peerauthentications",
    },
    Resource {
        kind: Kind::IstioAuthorizationPolicy,
        group: names::ISTIO_GROUP,
        versions: &names::ISTIO_VERSIONS,
        plural: "authorizationpolicies",
    },
    Resource {
        kind: Kind::IstioPeerAuthentication,
        group: names::ISTIO_GROUP,
        versions: &names::ISTIO_VERSIONS,
        plural: "peerauthentications",
    },
];

impl Resource {
    /// The path of all its objects, in a version.
    pub(super) fn path(&self, version: &str) -> String {
        match self.group {
            "" => format!("/api/{version}/{}", self.plural),
            group => format!("/apis/{group}/{version}/{}", self.plural),
        }
    }

    /// Whether a cluster may do without it: kinds that somebody has to install.
    pub(super) fn is_optional(&self) -> bool {
        self.kind.is_policy()
    }
}
