//! A node at rest, after work, and what a connection takes that is not the first.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Limits, Row, Sizes};
use crate::{
    contender::{Contender, Standing},
    load::{Job, Limit},
    memory::Resident,
    metric::{Figures, median},
    scenario::{Carried, Scenario, micros},
    session::{Entry, Session, turns},
    topology::Topology,
};

/// Resident memory of a node, in MB.
const IDLE_MB: f64 = 10.0;
const AFTER_MB: f64 = 25.0;
/// What the p50 of a connection may have beyond that of a direct one, in ms.
const LATER_MS: f64 = 0.3;

pub(super) fn measure(
    found: &mut Limits,
    topology: &Topology,
    dir: &Path,
    entry: &Entry,
    sizes: Sizes,
) -> Result<()> {
    let aquifers = [Contender::Direct, Contender::Aquifer, Contender::AquiferOneNode];
    let entry = Entry { contenders: aquifers.to_vec(), ..entry.clone() };
    let mut session = Session::start(topology, dir, &entry)?;
    found.versions = session.versions().to_vec();
    resident(found, &session, "idle", IDLE_MB)?;
    session.rounds(0..sizes.rounds, &Scenario::ALL, sizes.time, &mut Figures::default())?;
    resident(found, &session, "after the bench", AFTER_MB)?;
    later_connections(found, &session, sizes)?;
    found.absent.extend(session.absent().reasons.iter().cloned());
    Ok(())
}

/// Of each node, the larger one counts.
fn resident(found: &mut Limits, session: &Session<'_>, when: &str, goal: f64) -> Result<()> {
    let standing = session.standing().iter().find(|each| each.contender == Contender::Aquifer);
    let nodes = standing.context("Aquifer does not stand; see above why")?.processes.clone();
    let mut largest: f64 = 0.0;
    for node in nodes {
        largest = largest.max(Resident::settled(&[node])?.all as f64 / 1e6);
    }
    found.add(Row::goal(format!("resident per node, {when}"), goal, largest, "MB", 1));
    Ok(())
}

/// One at a time, so that none waits for another.
fn later_connections(found: &mut Limits, session: &Session<'_>, sizes: Sizes) -> Result<()> {
    let standing = session.standing();
    let mut added: Vec<(&Standing, Vec<f64>)> = standing.iter().map(|each| (each, Vec::new())).collect();
    for round in 0..sizes.rounds {
        let mut medians = vec![0.0; standing.len()];
        for index in turns(round, standing.len()) {
            let limit = Limit::of_time(sizes.time);
            let carried = Carried::measure(&standing[index], Job::Connections { parallel: 1, limit }, None)
                .with_context(|| {
                format!("{}, one connection after the other", standing[index].contender)
            })?;
            medians[index] = micros(carried.outcome.p50) / 1e3;
        }
        let direct = standing
            .iter()
            .position(|each| each.contender == Contender::Direct)
            .context("direct calls failed; see above why")?;
        for (median, (_, added)) in medians.iter().zip(&mut added) {
            added.push(median - medians[direct]);
        }
    }
    for (standing, added) in added {
        if standing.contender.has_proxies() {
            let what = format!("p50 of a later connection, added to direct, {}", standing.contender);
            let value = median(&added).context("no round")?;
            found.add(Row::goal(what, LATER_MS, value, "ms", 3));
        }
    }
    Ok(())
}
