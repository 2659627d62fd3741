//! EndpointSlices of Services that have none: made from the pods that the Service selects, as Kubernetes does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aquifer_model::{Endpoint, EndpointPort, EndpointSlice, NamespacedName, Node, Text, Workload};

use crate::object::{Family, MAX_ENDPOINTS, Pod, ServiceFacts, TargetPort};

/// Pods of one namespace by the labels that its Services select by, so that many Services among many pods cost no
/// product of both.
pub(crate) struct PodsByLabel<'a> {
    by_label: HashMap<(&'a str, &'a str), Vec<&'a Pod>>,
}

impl<'a> PodsByLabel<'a> {
    /// Looks at each pod once.
    pub(crate) fn new(services: &[&'a ServiceFacts], pods: impl Iterator<Item = &'a Pod>) -> Self {
        let mut by_label: HashMap<_, _> =
            services.iter().filter_map(|service| Some((leading(service)?, Vec::new()))).collect();
        if !by_label.is_empty() {
            for pod in pods.filter(|pod| !pod.workload.finished()) {
                for (key, value) in pod.workload.labels() {
                    if let Some(list) = by_label.get_mut(&(key.as_str(), value.as_str())) {
                        list.push(pod);
                    }
                }
            }
        }
        Self { by_label }
    }

    fn selected<'s>(&'s self, service: &'s ServiceFacts) -> impl Iterator<Item = &'a Pod> + use<'s, 'a> {
        let candidates = leading(service).and_then(|label| self.by_label.get(&label));
        candidates.into_iter().flatten().copied().filter(|pod| selects(service, &pod.workload))
    }
}

/// Any one label of the selector will do to find the pods that could match.
fn leading(service: &ServiceFacts) -> Option<(&str, &str)> {
    service.service.selector.first().map(|(key, value)| (key.as_ref(), value.as_ref()))
}

fn selects(service: &ServiceFacts, workload: &Workload) -> bool {
    !service.service.selector.is_empty() && workload.has_labels(&service.service.selector)
}

/// The slices of one Service: by family, and by the numbers that its named target ports have at each pod.
pub(crate) fn derive<'a>(
    service: &ServiceFacts,
    pods: &PodsByLabel<'_>,
    node: impl Fn(&str) -> Option<&'a Arc<Node>>,
) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(Family, Vec<Option<u16>>), Vec<Endpoint>> = BTreeMap::new();
    for pod in pods.selected(service) {
        let numbers: Vec<Option<u16>> = targets(service, pod).collect();
        let mut families = [false; 2];
        for address in pod.workload.addresses().iter() {
            let family = Family::of(address);
            // A pod has one endpoint in each family, as in Kubernetes: its first address there.
            let seen = std::mem::replace(&mut families[usize::from(family == Family::V6)], true);
            if !seen && service.family.is_none_or(|wanted| wanted == family) {
                let zone = node(pod.workload.node()).map(|node| Text::from(&*node.zone));
                let serving = pod.ready;
                groups.entry((family, numbers.clone())).or_default().push(Endpoint {
                    address,
                    workload: Some(pod.workload.name().clone()),
                    node: pod.workload.node().clone(),
                    zone: zone.unwrap_or_default(),
                    ready: service.service.publish_not_ready || (serving && !pod.workload.terminating()),
                    serving,
                    terminating: pod.workload.terminating(),
                });
            }
        }
    }
    let name = &service.service.name;
    let mut slices = Vec::with_capacity(groups.len());
    for ((_, numbers), endpoints) in groups {
        let ports: Box<[EndpointPort]> = service
            .service
            .ports
            .iter()
            .zip(numbers)
            .filter_map(|(port, number)| {
                Some(EndpointPort { name: port.name.clone(), protocol: port.protocol, port: number? })
            })
            .collect();
        for chunk in endpoints.chunks(MAX_ENDPOINTS) {
            slices.push(EndpointSlice {
                // No slice that somebody wrote can have an `@` in its name.
                name: NamespacedName::new(name.namespace.clone(), format!("{}@{}", name.name, slices.len())),
                service: name.clone(),
                ports: ports.clone(),
                endpoints: chunk.into(),
            });
        }
    }
    slices
}

/// What each port of the Service is at a pod; `None` where the pod has no port of that name.
fn targets<'a>(service: &'a ServiceFacts, pod: &'a Pod) -> impl Iterator<Item = Option<u16>> + 'a {
    service.service.ports.iter().zip(&service.targets).map(|(port, target)| match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(name) => {
            let found =
                pod.ports.iter().find(|each| each.name.as_str() == &**name && each.protocol == port.protocol);
            found.map(|each| each.port)
        }
    })
}
