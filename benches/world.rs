//! A mesh of so many workloads as Kubernetes YAML, beside the bench's own pods: what a node holds of the others.
//!
//! Names have 40 characters, each workload has two labels, ten of them stand behind a Service, and 200 run on a node. They
//! come as a file a namespace of 500 workloads, which is how `kubectl get -o yaml` would write them.

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::{Result, ensure};
use aquifer_integration::Manifests;

/// Workloads behind a Service.
const PER_SERVICE: u32 = 10;
/// Workloads on a node.
const PER_NODE: u32 = 200;
/// Workloads in a namespace.
const PER_NAMESPACE: u32 = 500;
/// First address of the far nodes' networks, 256 each: away from the bed's 10.1.0.0 and 10.2.0.0.
const FIRST_POD: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// First address of Services.
const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 0);
/// More have no names of the same length, and no addresses.
const MOST: u32 = 100_000;

/// So many workloads on nodes that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct World {
    /// Workloads, at most 100,000.
    pub(crate) workloads: u32,
}

impl World {
    /// None but the bench's own.
    pub(crate) const EMPTY: Self = Self { workloads: 0 };

    /// Services.
    pub(crate) fn services(self) -> u32 {
        self.workloads.div_ceil(PER_SERVICE)
    }

    /// Writes it into a folder of manifests.
    ///
    /// # Errors
    /// Where a file cannot be written, or where there are too many workloads.
    pub(crate) fn write(self, manifests: &Manifests) -> Result<()> {
        ensure!(self.workloads <= MOST, "a world has at most {MOST} workloads, not {}", self.workloads);
        if self.workloads > 0 {
            manifests.put("far-nodes", &self.nodes())?;
        }
        for namespace in 0..self.workloads.div_ceil(PER_NAMESPACE) {
            manifests.put(&format!("far-{namespace}"), &self.namespace(namespace))?;
        }
        Ok(())
    }

    fn nodes(self) -> String {
        let mut yaml = String::new();
        for node in 0..self.workloads.div_ceil(PER_NODE) {
            let network = address(FIRST_POD, node * 256);
            put(
                &mut yaml,
                format_args!(
                    "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: far-{node}\nspec:\n  podCIDR: {network}/24\n  podCIDRs:\n  - {network}/24\n"
                ),
            );
        }
        yaml
    }

    fn namespace(self, namespace: u32) -> String {
        let mut yaml = format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: far-{namespace}\n  labels:\n    aquifer.dev/mesh: ambient\n"
        );
        let first = namespace * PER_NAMESPACE;
        let end = (first + PER_NAMESPACE).min(self.workloads);
        // No Service is of two namespaces.
        for service in first / PER_SERVICE..end.div_ceil(PER_SERVICE) {
            put_service(&mut yaml, namespace, service);
        }
        for workload in first..end {
            put_pod(&mut yaml, namespace, workload);
        }
        yaml
    }
}

fn put_service(yaml: &mut String, namespace: u32, service: u32) {
    let (name, vip) = (application(service), address(FIRST_SERVICE, service));
    put(
        yaml,
        format_args!(
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: far-{namespace}\nspec:\n  \
             clusterIP: {vip}\n  clusterIPs:\n  - {vip}\n  selector:\n    app: {name}\n  ports:\n  - name: http\n    \
             protocol: TCP\n    port: 80\n    targetPort: 8080\n"
        ),
    );
}

fn put_pod(yaml: &mut String, namespace: u32, workload: u32) {
    let (name, app) = (pod(workload), application(workload / PER_SERVICE));
    let node = workload / PER_NODE;
    // The first two addresses of a network are its own and its gateway's.
    let ip = address(FIRST_POD, node * 256 + workload % PER_NODE + 2);
    put(
        yaml,
        format_args!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: far-{namespace}\n  uid: \
             9c5f7f0e-6a53-4a4c-9d5a-0000000{workload:05}\n  labels:\n    app: {app}\n    version: v1\nspec:\n  nodeName: \
             far-{node}\n  serviceAccountName: default\n  containers:\n  - name: app\n    image: none\nstatus:\n  phase: \
             Running\n  podIP: {ip}\n  podIPs:\n  - ip: {ip}\n  conditions:\n  - type: Ready\n    status: \"True\"\n"
        ),
    );
}

/// Name of a Service, and label of its pods.
fn application(service: u32) -> String {
    format!("growth-application-{service:05}")
}

/// Name of a pod: its application's, as a Deployment would lengthen it to 40 characters.
fn pod(workload: u32) -> String {
    format!("{}-7c9d8b5f6-{workload:05}", application(workload / PER_SERVICE))
}

fn address(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + number)
}

fn put(yaml: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = yaml.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn values<'a>(yaml: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
        yaml.lines().filter_map(move |line| line.strip_prefix(key))
    }

    #[test]
    fn names_are_forty_long() {
        for workload in [0, 9, 99_999] {
            assert_eq!(pod(workload).len(), 40, "{}", pod(workload));
        }
    }

    #[test]
    fn each_workload_is_there_once_with_an_address_of_its_own() {
        let world = World { workloads: 1_205 };
        let yaml: String = (0..3).map(|namespace| world.namespace(namespace)).collect();
        let pods: HashSet<_> = values(&yaml, "  podIP: ").collect();
        let vips: HashSet<_> = values(&yaml, "  clusterIP: ").collect();
        assert_eq!((pods.len(), vips.len()), (1_205, 121));
        assert_eq!(values(&yaml, "kind: Pod").count(), 1_205);
        assert_eq!(values(&yaml, "kind: Service").count(), world.services() as usize);
        assert_eq!(values(&world.nodes(), "kind: Node").count(), 7);
    }

    #[test]
    fn all_addresses_of_the_largest_are_inside_their_networks() {
        let last = address(FIRST_POD, (MOST / PER_NODE - 1) * 256 + PER_NODE + 1);
        assert_eq!(last, Ipv4Addr::new(10, 65, 243, 201));
        assert_eq!(address(FIRST_SERVICE, MOST / PER_SERVICE - 1), Ipv4Addr::new(172, 20, 39, 15));
    }
}
