//! Aquifer as a contender: the release binary, one node process per node of the bed, on a folder of Kubernetes YAML.
//!
//! It runs as it is shipped: flow records, metrics and policy checks are on, where Envoy and HAProxy log nothing. The
//! environment is handed on, so `RUST_LOG` and the `AQUIFER_…` variables of its command line work here too.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use aquifer_integration::{
    manifests::{Manifests, PodState},
    node::{NodeConfig, NodeProcess, START_LIMIT},
};

use crate::topology::Topology;

/// A running `aquifer node` for each node of the bed.
#[derive(Debug)]
pub(crate) struct Nodes(Vec<NodeProcess>);

impl Nodes {
    /// Writes the manifests, starts a process per node in the node's namespace, and waits until all are ready.
    ///
    /// The program is `AQUIFER_BIN`, or is built from this workspace.
    ///
    /// # Errors
    /// Where it cannot be built or started, ends, or is not ready in time; with the end of its log.
    pub(crate) fn start(topology: &Topology, dir: &Path) -> Result<Self> {
        if env::var_os("AQUIFER_BIN").is_none() {
            build()?;
        }
        let dir = dir.join("aquifer");
        let ca_dir = dir.join("ca");
        fs::create_dir_all(&ca_dir).with_context(|| format!("cannot create {}", ca_dir.display()))?;
        let manifests = Manifests::new(&dir.join("manifests"))?;
        topology.bed.nodes().iter().try_for_each(|node| manifests.node(node))?;
        topology.bed.pods().iter().try_for_each(|pod| manifests.pod(pod, &PodState::default()))?;
        let mut nodes = topology
            .bed
            .nodes()
            .iter()
            .map(|node| {
                NodeProcess::start(NodeConfig {
                    name: node.name().to_owned(),
                    ns: node.ns().clone(),
                    manifests: manifests.dir().to_owned(),
                    ca_dir: ca_dir.clone(),
                    run_dir: dir.join(node.name()),
                    log: dir.join(format!("{}.log", node.name())),
                    args: Vec::new(),
                    env: Vec::new(),
                    open_files: None,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        nodes.iter_mut().try_for_each(|node| node.wait_ready(START_LIMIT))?;
        Ok(Self(nodes))
    }

    /// The process of each node; its descendants belong to it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.0.iter().map(NodeProcess::pid).collect()
    }
}

/// Builds the release binary, which cargo puts beside this bench, where [`NodeProcess`] finds it.
fn build() -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "aquifer", "--bin", "aquifer"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::null())
        .status()
        .context("cannot run cargo to build the release binary")?;
    ensure!(status.success(), "the release binary cannot be built; or set AQUIFER_BIN to one");
    Ok(())
}

/// The version of this workspace and the commit it stands on.
pub(crate) fn version() -> String {
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|output| output.status.success());
    let version = env!("CARGO_PKG_VERSION");
    match commit {
        Some(commit) => format!("{version} ({})", String::from_utf8_lossy(&commit.stdout).trim()),
        None => version.to_owned(),
    }
}
