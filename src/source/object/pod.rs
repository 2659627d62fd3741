//! Pods, alone: whether one is in the mesh also hangs on its Namespace.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_k8s::{self as k8s, ObjectMeta, names};
use aquifer_model::{Addresses, Membership, PodUid, Protocol, Text, Workload, WorkloadFacts, WorkloadName};

use super::Meta;
use super::meta::{address, label, labels, port, protocol, reference};
use crate::field::{Complain, Field};
use crate::{Severity, TranslateConfig};

/// What a Pod says.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// The workload, its membership as if neither the Pod nor its Namespace asked for the mesh.
    pub workload: Workload,
    /// What its own label asks for.
    pub opt_in: OptIn,
    /// Its readiness condition; true where no status says otherwise.
    pub ready: bool,
    /// Its named ports with their protocols, in the order in which Kubernetes looks.
    pub ports: Vec<PodPort>,
}

/// What the label `aquifer.dev/mesh` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OptIn {
    /// Nothing; on a Pod, the Namespace counts.
    #[default]
    Unsaid,
    /// `ambient`.
    In,
    /// `none`.
    Out,
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Its name.
    pub name: Text,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// Reads a Pod; `None` where something that counts is unreadable, which was then complained of.
pub fn pod(
    meta: &Meta,
    object: &k8s::Pod,
    config: &TranslateConfig,
    complain: &mut Complain<'_>,
) -> Option<Arc<Pod>> {
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let spec_field = Field::ROOT.key("spec");

    let addresses = addresses(object, complain)?;
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let finished = matches!(phase, Some("Succeeded" | "Failed"));
    if addresses.is_empty() && !finished && phase != Some("Pending") {
        let message = "the pod has no address, so no call to it is recognised; add status.podIP".to_owned();
        complain(Severity::Warning, &Field::ROOT.key("status").key("podIP"), message);
    }
    let service_account = match spec.and_then(|spec| spec.service_account_name.as_deref()) {
        None | Some("") => "default".into(),
        Some(name) => reference(name, &spec_field.key("serviceAccountName"), complain)?,
    };
    let node = match spec.and_then(|spec| spec.node_name.as_deref()) {
        None | Some("") => "".into(),
        Some(name) => Text::from(&*reference(name, &spec_field.key("nodeName"), complain)?),
    };
    let netns = netns(&object.metadata, complain)?;
    let ports = ports(object, complain)?;
    let owner = owner(&object.metadata);
    let first_label =
        |keys: &[&str]| keys.iter().find_map(|key| label(&object.metadata, key)).map(Text::from);
    let uid = uid(meta, &object.metadata, &addresses, netns.as_deref());
    let workload = WorkloadFacts {
        name: WorkloadName::pod(&config.cluster_id, &meta.namespace, &meta.name),
        uid,
        namespace: meta.namespace.clone(),
        trust_domain: config.trust_domain.clone(),
        service_account,
        addresses,
        node,
        labels: labels(&object.metadata),
        named_ports: distinct_names(&ports),
        canonical_name: first_label(&names::CANONICAL_NAME_LABELS),
        canonical_revision: first_label(&names::CANONICAL_REVISION_LABELS).unwrap_or_else(|| "latest".into()),
        owner,
        membership: Membership::Outside,
        host_network,
        netns,
        terminating: object.metadata.deletion_timestamp.is_some(),
        finished,
    };
    let workload = workload.into();
    Some(Arc::new(Pod { workload, opt_in: opt_in(&object.metadata, complain), ready: ready(object), ports }))
}

/// What the opt-in label asks for; anything but its two values is complained of and counts as nothing.
pub(super) fn opt_in(meta: &ObjectMeta, complain: &mut Complain<'_>) -> OptIn {
    match label(meta, names::MESH_LABEL) {
        None => OptIn::Unsaid,
        Some(names::MESH_AMBIENT) => OptIn::In,
        Some(names::MESH_NONE) => OptIn::Out,
        Some(other) => {
            let metadata = Field::ROOT.key("metadata");
            let labels = metadata.key("labels");
            let message = format!("{other:?} is neither ambient nor none; the label is taken as not set");
            complain(Severity::Warning, &labels.key(names::MESH_LABEL), message);
            OptIn::Unsaid
        }
    }
}

/// `status.podIPs`, else `status.podIP`, each once.
fn addresses(object: &k8s::Pod, complain: &mut Complain<'_>) -> Option<Addresses> {
    let mut found = Vec::new();
    let Some(status) = &object.status else { return Some(Addresses::default()) };
    let field = Field::ROOT.key("status");
    let several = field.key("podIPs");
    for (index, ip) in status.pod_ips.iter().flatten().enumerate() {
        let item = several.index(index);
        let ip = address(&ip.ip, &item.key("ip"), complain)?;
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    if let Some(ip) = status.pod_ip.as_deref().filter(|ip| found.is_empty() && !ip.is_empty()) {
        found.push(address(ip, &field.key("podIP"), complain)?);
    }
    // Kubernetes gives one of each family; a few more do no harm, a thousand would in every index.
    if found.len() > 16 {
        complain(
            Severity::Error,
            &several,
            format!("{} addresses are more than a pod may have (16)", found.len()),
        );
        return None;
    }
    Some(found.into_iter().collect())
}

/// The Ready condition; where there is none, a pod that runs, or has no phase, is ready.
fn ready(object: &k8s::Pod) -> bool {
    let Some(status) = &object.status else { return true };
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    match condition {
        Some(condition) => condition.status == "True",
        None => matches!(status.phase.as_deref(), None | Some("" | "Running")),
    }
}

/// `Some(None)` where the annotation is not there.
fn netns(meta: &ObjectMeta, complain: &mut Complain<'_>) -> Option<Option<PathBuf>> {
    let Some(path) = meta.annotations.as_ref().and_then(|all| all.get(names::NETNS_ANNOTATION)) else {
        return Some(None);
    };
    // PATH_MAX is 4096 with its end; a path with a NUL names no file.
    if Path::new(path).is_absolute() && path.len() < 4096 && !path.contains('\0') {
        return Some(Some(PathBuf::from(path)));
    }
    let metadata = Field::ROOT.key("metadata");
    let annotations = metadata.key("annotations");
    let shown: String = path.chars().take(100).collect();
    let message =
        format!("{shown:?} is no absolute path of a network namespace, such as /var/run/netns/NAME");
    complain(Severity::Error, &annotations.key(names::NETNS_ANNOTATION), message);
    None
}

/// Named ports of the containers, then of those init containers that keep running (sidecars), as Kubernetes looks.
fn ports(object: &k8s::Pod, complain: &mut Complain<'_>) -> Option<Vec<PodPort>> {
    let mut found = Vec::new();
    let Some(spec) = &object.spec else { return Some(found) };
    let spec_field = Field::ROOT.key("spec");
    let sidecar = |container: &&k8s::Container| container.restart_policy.as_deref() == Some("Always");
    let containers =
        spec.containers.iter().enumerate().map(|(index, container)| ("containers", index, container));
    let sidecars = spec.init_containers.iter().flatten().enumerate();
    let sidecars =
        sidecars.filter(|(_, container)| sidecar(container)).map(|(i, c)| ("initContainers", i, c));
    for (list, container_index, container) in containers.chain(sidecars) {
        for (index, each) in container.ports.iter().flatten().enumerate() {
            let Some(name) = each.name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let (list, all) = (spec_field.key(list), "ports");
            let container = list.index(container_index);
            let all = container.key(all);
            let field = all.index(index);
            found.push(PodPort {
                name: name.into(),
                protocol: protocol(each.protocol.as_deref(), &field.key("protocol"), complain)?,
                port: port(each.container_port.into(), &field.key("containerPort"), complain)?,
            });
        }
    }
    Some(found)
}

/// One number a name, that of TCP first.
fn distinct_names(ports: &[PodPort]) -> Vec<(Text, u16)> {
    let mut found: Vec<(Text, u16)> = Vec::new();
    let tcp_first = ports.iter().filter(|p| p.protocol == Protocol::Tcp);
    for each in tcp_first.chain(ports.iter().filter(|p| p.protocol != Protocol::Tcp)) {
        if !found.iter().any(|(name, _)| *name == each.name) {
            found.push((each.name.clone(), each.port));
        }
    }
    found
}

/// Istio's rule (`GetWorkloadMeta` and the ambient index): the Deployment behind a ReplicaSet whose name ends in the
/// pod's template hash; a Job, or the CronJob that made it; for all else the pod itself.
/// `None`: the pod itself.
fn owner(object: &ObjectMeta) -> Option<(Text, Text)> {
    let controller = object.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let controller = controller?;
    match controller.kind.as_str() {
        "ReplicaSet" => {
            let hash = label(object, names::POD_TEMPLATE_HASH_LABEL);
            let name = hash.and_then(|hash| controller.name.strip_suffix(hash)?.strip_suffix('-'));
            name.filter(|name| !name.is_empty()).map(|name| ("deployment".into(), name.into()))
        }
        "Job" => match cron_job(&controller.name) {
            Some(name) => Some(("cronjob".into(), name.into())),
            None => Some(("job".into(), controller.name.as_str().into())),
        },
        _ => None,
    }
}

/// A CronJob names its Jobs with the minute of their schedule, 8 to 10 digits.
fn cron_job(job: &str) -> Option<&str> {
    let (name, time) = job.rsplit_once('-')?;
    let is_time = (8..=10).contains(&time.len()) && time.bytes().all(|c| c.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

/// `metadata.uid`; without one, a text made of all whose change means another pod.
fn uid(meta: &Meta, object: &ObjectMeta, addresses: &Addresses, netns: Option<&Path>) -> PodUid {
    if let Some(uid) = object.uid.as_deref().filter(|uid| !uid.is_empty()) {
        return PodUid::new(uid);
    }
    let mut text = format!("{}/{}", meta.namespace, meta.name);
    for (index, address) in addresses.iter().enumerate() {
        text.push(if index == 0 { '@' } else { ',' });
        text.push_str(&address.to_string());
    }
    if let Some(netns) = netns {
        text.push('#');
        text.push_str(&netns.to_string_lossy());
    }
    PodUid::new(text)
}

#[cfg(test)]
mod tests;
