//! Memory of idle connections.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aquifer_sys::process::raise_nofile;

use super::{Limits, Row, Sizes};
use crate::{
    aquifer::{Nodes, Start},
    contender::{Contender, Standing},
    load::Held,
    memory::Resident,
    session::{Entry, Session},
    topology::Topology,
};

/// Of both nodes together, in KB (1,000 bytes) a connection.
const CONNECTION_KB: f64 = 12.0;
/// Connections before the measured ones: all that is there once, such as tunnels and buffers, is there then.
const WARM_UP: usize = 16;
/// Descriptors of a process that are no connections.
const SPARE: u64 = 1_000;

pub(super) fn measure(
    found: &mut Limits,
    topology: &Topology,
    dir: &Path,
    entry: &Entry,
    sizes: Sizes,
) -> Result<()> {
    for place in [Standing::across, Standing::one_node] {
        let nodes = Nodes::start(Start::new(&topology.bed, dir))?;
        let standing = place(topology, &nodes);
        let row = idle_connections(&standing, sizes.connections)?;
        found.add(row);
    }
    // The yardstick, for comparison; it has no part in the goal.
    if entry.contenders.contains(&Contender::Envoy) {
        let entry = Entry { contenders: vec![Contender::Envoy], ..entry.clone() };
        match Session::start(topology, dir, &entry) {
            Ok(session) => {
                let row = idle_connections(&session.standing()[0], sizes.connections)?;
                found.add(Row { goal: None, ..row });
                found.versions.extend(session.versions().iter().cloned());
            }
            Err(error) => {
                found.absent.push((Contender::Envoy, format!("{error:#}")));
            }
        }
    }
    Ok(())
}

fn idle_connections(standing: &Standing, wanted: usize) -> Result<Row> {
    let name = standing.contender;
    let context = || format!("idle connections of {name}");
    let most = wanted.min(allowed(standing)?);
    let warm_up = open(standing, WARM_UP.min(most)).with_context(context)?;
    warm_up.release().with_context(context)?;
    let before = Resident::settled(&standing.processes)?;
    let held = open(standing, most).with_context(context)?;
    let after = Resident::settled(&standing.processes)?;
    let connections = held.connections;
    if let Some(trouble) = &held.trouble {
        eprintln!("{name}: {connections} of {most} connections stand, then: {trouble}");
    }
    let lost = held.release().with_context(context)?;
    ensure!(lost == 0, "{name}: {lost} of {connections} idle connections did not last");
    let each = (after.all as f64 - before.all as f64) / 1e3 / connections as f64;
    let what = format!("resident per idle connection, {name}, {connections} of them");
    Ok(Row::goal(what, CONNECTION_KB, each, "KB", 1))
}

fn open(standing: &Standing, most: usize) -> Result<Held> {
    Ok(Held::open(standing.client.ns(), standing.target, most)?)
}

/// As many as the limit of descriptors lets the busiest process have: the proxy of both ends has two a connection.
fn allowed(standing: &Standing) -> Result<usize> {
    let descriptors = raise_nofile().context("cannot raise the limit of descriptors")?;
    let each = if standing.processes.len() == 1 { 2 } else { 1 };
    Ok(usize::try_from(descriptors.saturating_sub(SPARE) / each)?)
}
