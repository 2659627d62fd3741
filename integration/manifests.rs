//! A folder of ordinary Kubernetes YAML that describes a bed, edited as a user would: whole files, put in place by rename.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

use crate::{bed::BedNode, pod::Pod};

/// A folder of manifests.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    // Beside the folder, on the same file system: what is half-written or taken away is never seen.
    staging: PathBuf,
    namespaces: Mutex<BTreeSet<String>>,
}

/// What a pod's manifest says beyond what the bed made.
#[derive(Clone, Debug)]
pub struct PodState {
    /// Whether the pod's condition `Ready` holds.
    pub ready: bool,
    /// Whether it has a deletion timestamp.
    pub terminating: bool,
    /// Whether it is in the mesh; `None` leaves that to the pod's spec.
    pub in_mesh: Option<bool>,
    /// Labels in place of the spec's.
    pub labels: Option<Vec<(String, String)>>,
}

impl Default for PodState {
    fn default() -> Self {
        Self { ready: true, terminating: false, in_mesh: None, labels: None }
    }
}

impl PodState {
    /// Alive but not ready.
    pub fn unready() -> Self {
        Self { ready: false, ..Self::default() }
    }

    /// On its way out.
    pub fn terminating() -> Self {
        Self { terminating: true, ..Self::default() }
    }

    /// In the mesh or not, whatever the spec says.
    pub fn member(in_mesh: bool) -> Self {
        Self { in_mesh: Some(in_mesh), ..Self::default() }
    }

    /// With other labels than the spec's.
    pub fn labelled(labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        Self { labels: Some(labels), ..Self::default() }
    }
}

/// A Service.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    namespace: String,
    name: String,
    addresses: Vec<IpAddr>,
    ports: Vec<(u16, String)>,
    selector: Option<(String, String)>,
    lines: Vec<String>,
}

impl ServiceSpec {
    /// A Service `namespace/name` that selects pods with label `app: name`. Without an address it is headless.
    pub fn new(name: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        Self {
            namespace: namespace.into(),
            name: name.into(),
            addresses: Vec::new(),
            ports: Vec::new(),
            selector: Some(("app".into(), name.into())),
            lines: Vec::new(),
        }
    }

    /// Adds a ClusterIP, of either family; the first one is the primary.
    #[must_use]
    pub fn vip(mut self, address: impl Into<IpAddr>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Adds a TCP port that leads to `target` (a number or a port's name) in the pods.
    #[must_use]
    pub fn port(mut self, port: u16, target: impl ToString) -> Self {
        self.ports.push((port, target.to_string()));
        self
    }

    /// Selects pods by another label.
    #[must_use]
    pub fn select(mut self, key: &str, value: &str) -> Self {
        self.selector = Some((key.into(), value.into()));
        self
    }

    /// Selects nothing: its EndpointSlices are written by hand.
    #[must_use]
    pub fn without_selector(mut self) -> Self {
        self.selector = None;
        self
    }

    /// Adds a line to `spec`, such as `internalTrafficPolicy: Local`.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Its manifest.
    pub fn yaml(&self) -> String {
        let mut yaml = head("v1", "Service", Some(&self.namespace), &self.name);
        yaml.push_str("spec:\n");
        match self.addresses.first() {
            None => yaml.push_str("  clusterIP: None\n"),
            Some(first) => {
                put(&mut yaml, format_args!("  clusterIP: {}\n  clusterIPs:\n", quote(first)));
                for address in &self.addresses {
                    put(&mut yaml, format_args!("  - {}\n", quote(address)));
                }
                yaml.push_str("  ipFamilies:\n");
                for address in &self.addresses {
                    yaml.push_str(if address.is_ipv4() { "  - IPv4\n" } else { "  - IPv6\n" });
                }
            }
        }
        if let Some((key, value)) = &self.selector {
            put(&mut yaml, format_args!("  selector:\n    {}: {}\n", quote(key), quote(value)));
        }
        for line in &self.lines {
            put(&mut yaml, format_args!("  {line}\n"));
        }
        if !self.ports.is_empty() {
            yaml.push_str("  ports:\n");
        }
        for (port, target) in &self.ports {
            let target = if target.parse::<u16>().is_ok() { target.clone() } else { quote(target) };
            put(
                &mut yaml,
                format_args!(
                    "  - name: tcp-{port}\n    protocol: TCP\n    port: {port}\n    targetPort: {target}\n"
                ),
            );
        }
        yaml
    }
}

impl Manifests {
    /// Makes the folder, empty.
    pub fn new(dir: &Path) -> Result<Self> {
        let mut staging = dir.as_os_str().to_owned();
        staging.push(".staging");
        let manifests = Self { dir: dir.into(), staging: staging.into(), namespaces: Mutex::default() };
        for made in [&manifests.dir, &manifests.staging] {
            fs::create_dir_all(made).with_context(|| format!("cannot make the folder {}", made.display()))?;
        }
        Ok(manifests)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts a file `name.yaml` in place, whole, over an earlier one.
    pub fn put(&self, name: &str, yaml: &str) -> Result<()> {
        let (file, staged) = (self.file(name), self.staging.join(format!("{name}.yaml")));
        fs::write(&staged, yaml)
            .and_then(|()| fs::rename(&staged, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Takes a file away.
    pub fn remove(&self, name: &str) -> Result<()> {
        let (file, staged) = (self.file(name), self.staging.join(format!("{name}.yaml")));
        fs::rename(&file, &staged)
            .and_then(|()| fs::remove_file(&staged))
            .with_context(|| format!("cannot remove {}", file.display()))
    }

    /// Writes a file in place, not whole-by-rename: what an editor without care does.
    pub fn overwrite(&self, name: &str, text: &str) -> Result<()> {
        let file = self.file(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Writes a Namespace, in the mesh or not.
    pub fn namespace(&self, name: &str, in_mesh: bool) -> Result<()> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        let mut yaml = head("v1", "Namespace", None, name);
        if in_mesh {
            yaml.push_str("  labels:\n    aquifer.dev/mesh: ambient\n");
        }
        self.put(&format!("namespace-{name}"), &yaml)
    }

    /// Writes a Node with its pod networks.
    pub fn node(&self, node: &BedNode) -> Result<()> {
        let mut yaml = head("v1", "Node", None, node.name());
        put(&mut yaml, format_args!("  labels:\n    kubernetes.io/hostname: {}\n", node.name()));
        let cidrs = node.pod_networks().map(|(network, prefix)| format!("{network}/{prefix}"));
        put(&mut yaml, format_args!("spec:\n  podCIDR: {}\n  podCIDRs:\n", quote(&cidrs[0])));
        for cidr in &cidrs {
            put(&mut yaml, format_args!("  - {}\n", quote(cidr)));
        }
        yaml.push_str("status:\n  addresses:\n");
        for address in node.wire_addresses() {
            put(&mut yaml, format_args!("  - type: InternalIP\n    address: {}\n", quote(&address)));
        }
        self.put(&format!("node-{}", node.name()), &yaml)
    }

    /// Writes a Pod and its ServiceAccount, and its Namespace (in the mesh) where none was written yet.
    pub fn pod(&self, pod: &Pod, state: &PodState) -> Result<()> {
        let known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).contains(pod.namespace());
        if !known {
            self.namespace(pod.namespace(), true)?;
        }
        let account = head("v1", "ServiceAccount", Some(pod.namespace()), pod.service_account());
        self.put(&format!("account-{}-{}", pod.namespace(), pod.service_account()), &account)?;
        self.put(&pod_file(pod), &pod_yaml(pod, state))
    }

    /// Takes a Pod's manifest away.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.remove(&pod_file(pod))
    }

    /// Writes a Service.
    pub fn service(&self, service: &ServiceSpec) -> Result<()> {
        self.put(&format!("service-{}-{}", service.namespace, service.name), &service.yaml())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.yaml"))
    }
}

/// One file a pod object, by name: a pod of the same name takes its place.
fn pod_file(pod: &Pod) -> String {
    format!("pod-{}-{}", pod.namespace(), pod.name())
}

fn pod_yaml(pod: &Pod, state: &PodState) -> String {
    let mut yaml = head("v1", "Pod", Some(pod.namespace()), pod.name());
    put(&mut yaml, format_args!("  uid: {}\n", pod.uid()));
    if state.terminating {
        yaml.push_str("  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n  deletionGracePeriodSeconds: 30\n");
    }
    put(
        &mut yaml,
        format_args!("  annotations:\n    aquifer.dev/netns: {}\n", quote(&pod.netns_path().display())),
    );
    let in_mesh = state.in_mesh.unwrap_or_else(|| pod.in_mesh());
    put(
        &mut yaml,
        format_args!("  labels:\n    aquifer.dev/mesh: {}\n", if in_mesh { "ambient" } else { "none" }),
    );
    for (key, value) in state.labels.as_deref().unwrap_or_else(|| pod.labels()) {
        put(&mut yaml, format_args!("    {}: {}\n", quote(key), quote(value)));
    }
    put(
        &mut yaml,
        format_args!(
            "spec:\n  nodeName: {}\n  serviceAccountName: {}\n  containers:\n  - name: app\n    image: none\n",
            pod.node_name(),
            pod.service_account(),
        ),
    );
    let ports = &pod.inner().spec.ports;
    if !ports.is_empty() {
        yaml.push_str("    ports:\n");
    }
    for (name, port) in ports {
        put(
            &mut yaml,
            format_args!("    - name: {}\n      containerPort: {port}\n      protocol: TCP\n", quote(name)),
        );
    }
    put(&mut yaml, format_args!("status:\n  phase: Running\n  podIP: {}\n  podIPs:\n", quote(&pod.ip())));
    for address in pod.addresses() {
        put(&mut yaml, format_args!("  - ip: {}\n", quote(&address)));
    }
    let ready = if state.ready { "True" } else { "False" };
    put(&mut yaml, format_args!("  conditions:\n  - type: Ready\n    status: \"{ready}\"\n"));
    yaml
}

fn head(version: &str, kind: &str, namespace: Option<&str>, name: &str) -> String {
    let mut yaml = format!("apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {}\n", quote(name));
    if let Some(namespace) = namespace {
        put(&mut yaml, format_args!("  namespace: {}\n", quote(namespace)));
    }
    yaml
}

/// A double-quoted scalar; JSON's escapes are YAML's.
fn quote(value: &(impl ToString + ?Sized)) -> String {
    serde_json::Value::String(value.to_string()).to_string()
}

fn put(yaml: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = yaml.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_written_as_a_user_would() {
        let service = ServiceSpec::new("shop/web")
            .vip([10, 96, 0, 1])
            .port(80, 8080)
            .port(81, "metrics")
            .with("internalTrafficPolicy: Local");
        let expected = r#"apiVersion: v1
kind: Service
metadata:
  name: "web"
  namespace: "shop"
spec:
  clusterIP: "10.96.0.1"
  clusterIPs:
  - "10.96.0.1"
  ipFamilies:
  - IPv4
  selector:
    "app": "web"
  internalTrafficPolicy: Local
  ports:
  - name: tcp-80
    protocol: TCP
    port: 80
    targetPort: 8080
  - name: tcp-81
    protocol: TCP
    port: 81
    targetPort: "metrics"
"#;
        assert_eq!(service.yaml(), expected);
        assert!(ServiceSpec::new("web").yaml().contains("clusterIP: None"));
    }

    #[test]
    fn files_come_whole_and_go_whole() {
        let root = tempfile::tempdir().unwrap();
        let manifests = Manifests::new(&root.path().join("m")).unwrap();
        manifests.put("a", "x: 1\n").unwrap();
        manifests.put("a", "x: 2\n").unwrap();
        assert_eq!(fs::read_to_string(manifests.dir().join("a.yaml")).unwrap(), "x: 2\n");
        manifests.remove("a").unwrap();
        assert_eq!(fs::read_dir(manifests.dir()).unwrap().count(), 0);
        manifests.remove("a").unwrap_err();
    }
}
