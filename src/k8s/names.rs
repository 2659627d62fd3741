//! Labels, annotations, API groups and other names that are spelled the same everywhere, each written once.

/// API group of our own kinds.
pub const GROUP: &str = "aquifer.dev";
/// Version of our own kinds.
pub const VERSION: &str = "v1alpha1";
/// Istio's API group, whose policies are read too.
pub const ISTIO_GROUP: &str = "security.istio.io";
/// Versions of Istio's policies that are read; their specs are the same.
pub const ISTIO_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Namespace of the system; by default also the root namespace, whose policies apply to the whole mesh.
pub const SYSTEM_NAMESPACE: &str = "aquifer-system";

/// Label on a Namespace or Pod: [`MESH_AMBIENT`] puts it in the mesh, [`MESH_NONE`] on a Pod keeps it out.
pub const MESH_LABEL: &str = "aquifer.dev/mesh";
/// Value of [`MESH_LABEL`] that opts in.
pub const MESH_AMBIENT: &str = "ambient";
/// Value of [`MESH_LABEL`] that opts out.
pub const MESH_NONE: &str = "none";

/// Taint of a Node whose proxy is not ready yet, by which whoever registers the Node keeps pods off it until then.
pub const NOT_READY_TAINT: &str = "aquifer.dev/not-ready";

/// Annotation on a Pod in a folder of YAML: path of its network namespace (`/var/run/netns/NAME`).
pub const NETNS_ANNOTATION: &str = "aquifer.dev/netns";

/// Label of an EndpointSlice: the Service that it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of a Node: its region.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Label of a Node: its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Labels that name a workload's canonical service, the first that is set and not empty counts.
pub const CANONICAL_NAME_LABELS: [&str; 3] =
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
/// Labels that name a workload's canonical revision, the first that is set and not empty counts.
pub const CANONICAL_REVISION_LABELS: [&str; 3] =
    ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
/// Label that a Deployment puts on its ReplicaSets and Pods; the suffix of the ReplicaSet's name.
pub const POD_TEMPLATE_HASH_LABEL: &str = "pod-template-hash";

/// Label that names a program, on its pods.
pub const APPLICATION_LABEL: &str = "app.kubernetes.io/name";
/// The node proxy: its DaemonSet, its service account, and the value of [`APPLICATION_LABEL`] on its pods.
pub const NODE: &str = "aquifer-node";
/// The controller: its Deployment, Service and service account, and the value of [`APPLICATION_LABEL`] on its pods.
pub const CONTROLLER: &str = "aquifer-controller";
/// Who writes statuses, as `managedFields` and events name it.
pub const FIELD_MANAGER: &str = "aquifer-controller";
/// Port of the admin pages, on loopback.
pub const ADMIN_PORT: u16 = 15000;
