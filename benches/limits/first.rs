//! The first connection between two pods, handshake of the tunnel included.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use aquifer_integration::{Bed, Families, Plan, Pod, PodSpec};

use super::{Limits, Row, Sizes};
use crate::{
    aquifer::{Nodes, Start},
    load::{Client, Job, Server},
    metric::median,
    scenario::micros,
};

/// First part of the names of the namespaces.
const PREFIX: &str = "aqfirst";
const PORT: u16 = 9000;
/// p50, in ms.
const FIRST_MS: f64 = 5.0;

/// Every pod of one node calls every pod of the other once. Each has a service account of its own, so that neither a tunnel nor
/// a TLS session of an earlier pair helps.
pub(super) fn measure(found: &mut Limits, dir: &Path, sizes: Sizes) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let plan = Plan { prefix: PREFIX.into(), families: Families::V4, ..Plan::default() };
    Bed::cleanup_leftovers(&plan.netns_dir, PREFIX).context("cannot clear away an earlier run")?;
    let mut bed = Bed::new(plan)?;
    let mut pods = |kind: &str, node| -> Result<Vec<Pod>> {
        let name = |number| format!("{kind}-{number}");
        (0..sizes.pods)
            .map(|n| bed.pod(PodSpec::new(&format!("bench/{}", name(n))).service_account(&name(n)).on(node)))
            .collect()
    };
    let (clients, servers) = (pods("client", 0)?, pods("server", 1)?);
    let address = |pod: &Pod| SocketAddr::new(pod.v4(), PORT);
    let _applications: Vec<Server> =
        servers.iter().map(|pod| Server::start(pod.ns(), address(pod))).collect::<Result<_, _>>()?;
    let _nodes = Nodes::start(Start::new(&bed, dir))?;
    let mut latencies = Vec::new();
    for client in &clients {
        for server in &servers {
            let outcome = Client::start(client.ns(), address(server), &Job::Once)?
                .finish()
                .with_context(|| format!("{} calls {}", client.full_name(), server.full_name()))?;
            latencies.push(micros(outcome.p50) / 1e3);
        }
    }
    let what = format!("p50 of the first connection between two pods, {} pairs", latencies.len());
    let value = median(&latencies).context("no pair of pods")?;
    found.add(Row::goal(what, FIRST_MS, value, "ms", 2));
    let slowest = latencies.iter().copied().fold(0.0, f64::max);
    found.add(Row::beside("slowest of them", slowest, "ms", 2));
    Ok(())
}
