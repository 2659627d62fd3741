//! A bed on which Aquifer runs: one node process per node, on one folder of manifests and one CA folder.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aquifer_sys::rules::{self, Mode, Standing};

use crate::{
    bed::Bed,
    manifests::{Manifests, PodState, ServiceSpec},
    node::{FlowRecord, NodeConfig, NodeProcess, START_LIMIT},
    pod::{Pod, PodSpec},
    wait::wait_until,
};

/// How long a change in the folder may take to show in the data plane: 0.1 s of quiet, 2 s of doubt about a folder that lost
/// much, and the rest for a machine that is busy.
pub const CHANGE_LIMIT: Duration = Duration::from_secs(15);

/// Bed, manifests and nodes in one value.
#[derive(Debug)]
pub struct Mesh {
    // Nodes end before the namespaces that they run in.
    nodes: Vec<NodeProcess>,
    manifests: Manifests,
    dir: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    open_files: Option<u64>,
    bed: Bed,
}

impl Mesh {
    /// Takes a bed and writes its nodes to `dir/manifests`; nothing runs yet. The CA is in `dir/ca`, logs in `dir/logs`.
    pub fn new(bed: Bed, dir: &Path) -> Result<Self> {
        let manifests = Manifests::new(&dir.join("manifests"))?;
        for node in bed.nodes() {
            manifests.node(node)?;
        }
        for made in ["ca", "logs", "run"] {
            std::fs::create_dir_all(dir.join(made))
                .with_context(|| format!("cannot make {}/{made}", dir.display()))?;
        }
        Ok(Self {
            nodes: Vec::new(),
            manifests,
            dir: dir.into(),
            args: Vec::new(),
            env: Vec::new(),
            open_files: None,
            bed,
        })
    }

    /// Adds arguments for every node; before [`Mesh::start`].
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.args.extend(args.iter().map(|&arg| arg.into()));
        self
    }

    /// Adds an environment variable for every node; before [`Mesh::start`].
    pub fn env(&mut self, key: &str, value: &str) -> &mut Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Limits the open files of every node; before [`Mesh::start`].
    pub fn open_files(&mut self, limit: u64) -> &mut Self {
        self.open_files = Some(limit);
        self
    }

    /// Adds a pod and its manifest. Where its node runs, it is captured when this returns (if it is in the mesh).
    pub fn pod(&mut self, spec: PodSpec) -> Result<Pod> {
        let pod = self.bed.pod(spec)?;
        self.manifests.pod(&pod, &PodState::default())?;
        if pod.is_captured() && self.nodes.get(pod.node()).is_some() {
            self.wait_enrolled(&pod)?;
        }
        Ok(pod)
    }

    /// Removes a pod as a cluster does: manifest, processes, namespace.
    pub fn remove_pod(&mut self, pod: &Pod) -> Result<()> {
        self.manifests.remove_pod(pod)?;
        self.bed.remove(pod);
        Ok(())
    }

    /// Adds or changes a Service.
    pub fn service(&self, service: &ServiceSpec) -> Result<()> {
        self.manifests.service(service)
    }

    /// Adds or changes a policy, or any other manifest.
    pub fn policy(&self, name: &str, yaml: &str) -> Result<()> {
        self.manifests.put(name, yaml)
    }

    /// Starts a node process on every node and waits until all are ready and all pods of the mesh are captured.
    pub fn start(&mut self) -> Result<()> {
        for index in 0..self.bed.nodes().len() {
            let node = NodeProcess::start(self.node_config(index))?;
            self.nodes.push(node);
        }
        for node in &mut self.nodes {
            node.wait_ready(START_LIMIT)?;
        }
        let pods: Vec<_> = self.bed.pods().iter().filter(|pod| pod.is_captured()).cloned().collect();
        pods.iter().try_for_each(|pod| self.wait_enrolled(pod))
    }

    /// How a node (index) is started, for those that start it themselves.
    pub fn node_config(&self, index: usize) -> NodeConfig {
        let node = &self.bed.nodes()[index];
        NodeConfig {
            name: node.name().into(),
            ns: node.ns().clone(),
            manifests: self.manifests.dir().into(),
            ca_dir: self.ca_dir(),
            run_dir: self.dir.join("run").join(node.name()),
            log: self.dir.join("logs").join(format!("{}.log", node.name())),
            args: self.args.clone(),
            env: self.env.clone(),
            open_files: self.open_files,
        }
    }

    /// Waits until a pod's traffic is captured, by the rules that stand in its namespace.
    pub fn wait_enrolled(&self, pod: &Pod) -> Result<()> {
        wait_until(&format!("{} to be captured", pod.full_name()), CHANGE_LIMIT, || {
            Ok(match rules::inspect(pod.ns())? {
                Standing::Present(found)
                    if found.intact() && matches!(found.mode, Some(Mode::Capture { .. })) =>
                {
                    Ok(())
                }
                other => Err(other),
            })
        })
    }

    /// Waits until no rule of ours stands in a pod's namespace.
    pub fn wait_left(&self, pod: &Pod) -> Result<()> {
        wait_until(&format!("{} to be left alone", pod.full_name()), CHANGE_LIMIT, || {
            Ok(match rules::inspect(pod.ns())? {
                Standing::Absent => Ok(()),
                other @ Standing::Present(_) => Err(other),
            })
        })
    }

    /// Takes a running pod into the mesh and waits until it is captured.
    pub fn opt_in(&self, pod: &Pod) -> Result<()> {
        self.manifests.pod(pod, &PodState::member(true))?;
        self.wait_enrolled(pod)
    }

    /// Takes a running pod out of the mesh. What is carried stays carried until it ends; [`Mesh::wait_left`] waits for that.
    pub fn opt_out(&self, pod: &Pod) -> Result<()> {
        self.manifests.pod(pod, &PodState::member(false))?;
        wait_until(&format!("{} to be leaving", pod.full_name()), CHANGE_LIMIT, || {
            Ok(match rules::inspect(pod.ns())? {
                Standing::Absent => Ok(()),
                Standing::Present(found) if matches!(found.mode, Some(Mode::Leave { .. })) => Ok(()),
                other @ Standing::Present(_) => Err(other),
            })
        })
    }

    /// The node process at this index.
    ///
    /// # Panics
    /// Before [`Mesh::start`].
    pub fn node(&self, index: usize) -> &NodeProcess {
        &self.nodes[index]
    }

    /// The node process at this index, to kill or restart it.
    ///
    /// # Panics
    /// Before [`Mesh::start`].
    pub fn node_mut(&mut self, index: usize) -> &mut NodeProcess {
        &mut self.nodes[index]
    }

    /// All node processes.
    pub fn nodes(&self) -> &[NodeProcess] {
        &self.nodes
    }

    /// Waits for the record of a call between two pods (`namespace/name`) by the client's node.
    pub fn source_flow(&self, source: &Pod, destination: &Pod) -> Result<FlowRecord> {
        self.flow(source.node(), source, destination, true)
    }

    /// Waits for the record of a call between two pods by the server's node.
    pub fn destination_flow(&self, source: &Pod, destination: &Pod) -> Result<FlowRecord> {
        self.flow(destination.node(), source, destination, false)
    }

    fn flow(&self, node: usize, source: &Pod, destination: &Pod, is_source: bool) -> Result<FlowRecord> {
        let (from, to) = (source.full_name(), destination.full_name());
        let Some(node) = self.nodes.get(node) else { bail!("{from} is on a node without Aquifer") };
        let fits = |flow: &FlowRecord| flow.is_source() == is_source && flow.is_between(&from, &to);
        node.wait_flow(CHANGE_LIMIT, fits).with_context(|| format!("no record of a call from {from} to {to}"))
    }

    /// Leaves nodes, namespaces and files standing when this value goes.
    pub fn keep(mut self) {
        self.nodes.iter_mut().for_each(NodeProcess::keep);
        self.bed.keep();
    }

    /// The manifests, to edit.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The folder of the local CA.
    pub fn ca_dir(&self) -> PathBuf {
        self.dir.join("ca")
    }

    /// The folder that manifests, CA, sockets and logs are in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The bed.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The bed, to add pods that have no manifest.
    pub fn bed_mut(&mut self) -> &mut Bed {
        &mut self.bed
    }
}
