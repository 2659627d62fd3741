//! A node that reads the YAML of many workloads: memory of each, time to load them, and time until a change holds on the data
//! path.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aquifer_integration::wait_for;

use super::{Limits, Row, Sizes};
use crate::{
    aquifer::{Nodes, Start},
    load::open_idle,
    memory::Resident,
    metric::median,
    topology::{NAMESPACE, Topology, application},
    world::World,
};

/// Time until a change holds on the data path, in ms.
const CHANGE_MS: f64 = 10.0;
/// For so long the source waits after a change of the folder whether there is more to come (`QUIET` in
/// `src/source/folder/watch.rs`). It is a choice of the source, and no work.
const QUIET_MS: f64 = 100.0;
/// Workloads of the source that the large one is compared with.
const FEW: u32 = 10;
/// A change that does not show in this time never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// File of the policy that shuts everybody out, without its ending.
const POLICY: &str = "policy-shut";

pub(super) fn measure(found: &mut Limits, topology: &Topology, dir: &Path, sizes: Sizes) -> Result<()> {
    let load = |workloads| {
        let start = Start { world: World { workloads }, nodes: 1, ..Start::new(&topology.bed, dir) };
        let nodes = Nodes::start(start).with_context(|| format!("a node with {workloads} workloads"))?;
        let took = nodes.loads()[0].as_secs_f64();
        let resident = Resident::settled(&nodes.processes())?;
        anyhow::Ok((nodes, took, resident))
    };
    let (nodes, took_few, few) = load(FEW)?;
    drop(nodes);
    let (nodes, took, many) = load(sizes.workloads)?;
    let each = |many: u64, few: u64| (many as f64 - few as f64) / f64::from(sizes.workloads - FEW);
    let services = World { workloads: sizes.workloads }.services();
    let among = format!("{} workloads and {services} services", sizes.workloads);
    let what = format!("heap of a node process that reads YAML per workload, {among}");
    found.add(Row::beside(what, each(many.heap, few.heap), "bytes", 0));
    found.add(Row::beside("resident memory of it per workload", each(many.all, few.all), "bytes", 0));
    let what = format!("loading them from YAML, beyond a start with {FEW}");
    found.add(Row::beside(what, took - took_few, "s", 2));
    changes(found, topology, &nodes, sizes.changes, &among)
}

/// A policy that forbids what runs is written to the folder, and the running connection is cut.
fn changes(found: &mut Limits, topology: &Topology, nodes: &Nodes, count: usize, among: &str) -> Result<()> {
    let policy = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: shut\n  namespace: {NAMESPACE}\nspec:\n  \
         action: DENY\n  rules:\n  - {{}}\n"
    );
    let target = application(&topology.near_server);
    let mut took = Vec::new();
    for _ in 0..count {
        let standing = wait_until_open(topology, target)?;
        let begun = Instant::now();
        nodes.manifests().put(POLICY, &policy)?;
        wait_until_cut(standing)?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        nodes.manifests().remove(POLICY)?;
    }
    wait_until_open(topology, target)?;
    let whole = median(&took).context("no change")?;
    let what = format!("p50 of a change from file to data path beyond {QUIET_MS} ms of quiet, {among}");
    found.add(Row::goal(what, CHANGE_MS, whole - QUIET_MS, "ms", 1));
    found.add(Row::beside("the same with the quiet", whole, "ms", 1));
    Ok(())
}

fn wait_until_open(topology: &Topology, target: SocketAddr) -> Result<TcpStream> {
    let mut last = None;
    let opened = wait_for("a connection that policy allows again", PATIENCE, || {
        match open_idle(topology.client.ns(), target) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        }
    });
    opened.with_context(|| format!("last answer: {last:?}"))
}

fn wait_until_cut(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => bail!("the server sent a byte that nobody asked for"),
        Err(error) => {
            ensure!(
                error.kind() == std::io::ErrorKind::ConnectionReset,
                "a policy that forbids a connection did not cut it in {} s ({error})",
                PATIENCE.as_secs()
            );
            Ok(())
        }
    }
}
