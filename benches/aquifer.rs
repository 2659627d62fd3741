//! Aquifer as a contender: the release binary, one node process per node of the bed, on a folder of Kubernetes YAML.
//!
//! It runs as it is shipped: flow records, metrics and policy checks are on, where Envoy and HAProxy log nothing. The
//! environment is handed on, so `RUST_LOG` and the `AQUIFER_…` variables of its command line work here too.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aquifer_integration::{
    Bed,
    manifests::{Manifests, PodState},
    node::{NodeConfig, NodeProcess, START_LIMIT},
};

use crate::world::World;

/// How long a node may take to load the largest world on a slow machine.
const LOAD_LIMIT: Duration = Duration::from_secs(300);

/// A running `aquifer node` on each node of the bed, or on the first one only.
#[derive(Debug)]
pub(crate) struct Nodes {
    running: Vec<NodeProcess>,
    manifests: Manifests,
    loads: Vec<Duration>,
}

/// What nodes are started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    /// Nodes and pods.
    pub(crate) bed: &'a Bed,
    /// Where manifests, certificates and logs are kept; nodes that are started again find theirs there.
    pub(crate) dir: &'a Path,
    /// What is in the manifests beside the bed's own nodes and pods.
    pub(crate) world: World,
    /// How many of the bed's nodes have a process.
    pub(crate) nodes: usize,
}

impl<'a> Start<'a> {
    /// On all nodes, with nothing in the manifests but the bed.
    pub(crate) fn new(bed: &'a Bed, dir: &'a Path) -> Self {
        Self { bed, dir, world: World::EMPTY, nodes: bed.nodes().len() }
    }
}

impl Nodes {
    /// Writes the manifests and starts a process in each node's namespace, one after the other once the one before is ready.
    ///
    /// The program is `AQUIFER_BIN`, or is built from this workspace.
    ///
    /// # Errors
    /// Where it cannot be built or started, ends, or is not ready in time; with the end of its log.
    pub(crate) fn start(Start { bed, dir, world, nodes }: Start<'_>) -> Result<Self> {
        if env::var_os("AQUIFER_BIN").is_none() {
            build()?;
        }
        let dir = dir.join("aquifer");
        let ca_dir = dir.join("ca");
        fs::create_dir_all(&ca_dir).with_context(|| format!("cannot create {}", ca_dir.display()))?;
        let manifests = Manifests::new(&dir.join(format!("manifests-{}", world.workloads)))?;
        bed.nodes().iter().try_for_each(|node| manifests.node(node))?;
        bed.pods().iter().try_for_each(|pod| manifests.pod(pod, &PodState::default()))?;
        world.write(&manifests)?;
        let mut started = Self { running: Vec::new(), manifests, loads: Vec::new() };
        for node in bed.nodes().iter().take(nodes) {
            let begun = Instant::now();
            let mut process = NodeProcess::start(NodeConfig {
                name: node.name().to_owned(),
                ns: node.ns().clone(),
                manifests: started.manifests.dir().to_owned(),
                ca_dir: ca_dir.clone(),
                run_dir: dir.join(node.name()),
                log: dir.join(format!("{}.log", node.name())),
                args: Vec::new(),
                env: Vec::new(),
                open_files: None,
            })?;
            process.wait_ready(START_LIMIT.max(LOAD_LIMIT))?;
            started.loads.push(begun.elapsed());
            started.running.push(process);
        }
        Ok(started)
    }

    /// The process of each node; its descendants belong to it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.running.iter().map(NodeProcess::pid).collect()
    }

    /// The folder that the nodes follow.
    pub(crate) fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Time of each node from its start until it said that it was ready, good to 20 ms.
    pub(crate) fn loads(&self) -> &[Duration] {
        &self.loads
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
