//! What happens under load: certificates are renewed, a worker is killed.

use std::time::Instant;

use anyhow::{Result, ensure};
use aquifer_integration::{FlowRecord, LoadReport, wait_for};

use super::calls::short_serial;
use super::stage::{ECHO, HTTP, PATIENCE};
use super::story::{LONG, Seen, Story};
use crate::table::time;

/// Connections of the load that stand, one request after another on each.
const STANDING: usize = 16;

/// New connections of the load each second, a request on each.
const ARRIVING: u32 = 100;

/// Requests that must follow an event, so that the load has met what it changed.
const AFTER: u64 = 500;

/// Each node's certificates get new keys while requests run; every serial number changes, no request fails.
pub(super) fn renewed(story: &mut Story) -> Result<Seen> {
    let stage = &story.stage;
    let holders = [&stage.client, &stage.web[0], &stage.web[1]];
    let serials = || holders.iter().map(|pod| stage.serial(pod)).collect::<Result<Vec<_>>>();
    let load = stage.client.load(stage.service(), STANDING, ARRIVING);
    load.wait_for_more(AFTER, PATIENCE)?;
    let before = serials()?;
    let begun = Instant::now();
    let after = wait_for("all certificates to be renewed", LONG, || {
        stage.stop.check()?;
        let now = serials()?;
        Ok(now.iter().zip(&before).all(|(now, before)| now != before).then_some(now))
    })?;
    let took = begun.elapsed();
    load.wait_for_more(AFTER, PATIENCE)?;
    let report = load.finish();
    let text = format!(
        "{} requests in {} ({STANDING} standing connections, {ARRIVING} new ones a second), {} failed; within {} the serials \
         went {} > {} (client), {} > {} and {} > {} (web on each node); a request took {} in the median, at most {}",
        report.succeeded,
        time(report.elapsed),
        report.failed,
        time(took),
        short_serial(&before[0]),
        short_serial(&after[0]),
        short_serial(&before[1]),
        short_serial(&after[1]),
        short_serial(&before[2]),
        short_serial(&after[2]),
        time(report.percentile(50.0)),
        time(report.percentile(100.0)),
    );
    let unexpected = match report.failed {
        0 => Vec::new(),
        _ => vec![format!("requests failed: {:?}", report.failures)],
    };
    Ok(Seen { text, unexpected, ..Seen::default() })
}

/// The worker of the client's node dies in the middle of it all; its parent starts the next one on the same listeners.
pub(super) fn killed(story: &mut Story) -> Result<Seen> {
    let stage = &story.stage;
    let node = stage.mesh.node(stage.client.node());
    let load = stage.client.load(stage.service(), STANDING, ARRIVING);
    let mut held = stage.client.connect((stage.web[1].ip(), ECHO).into())?;
    held.ping()?;
    load.wait_for_more(AFTER, PATIENCE)?;
    let before = node.workers();

    node.kill_workers()?;
    let begun = Instant::now();
    held.expect_reset()
        .map_err(|found| anyhow::anyhow!("a connection of the dead worker was not reset: {found}"))?;
    let reset = begun.elapsed();
    let mut fresh = stage.client.connect((stage.web[1].ip(), HTTP).into())?;
    let local = fresh.local()?;
    let reply = fresh.get("/")?;
    let served = begun.elapsed();
    ensure!(reply.status == 200, "the first new connection was answered {}", reply.status);
    drop(fresh);
    load.wait_for_more(AFTER, PATIENCE)?;
    let report = load.finish();
    let record = node.wait_flow(PATIENCE, |flow: &FlowRecord| flow.source_address == Some(local))?;
    let after = node.workers();

    let mut unexpected = Vec::new();
    let resets = count(&report, "reset");
    let others: Vec<_> = report.failures.iter().filter(|(_, text)| !text.contains("reset")).collect();
    if !others.is_empty() {
        unexpected.push(format!("requests ended otherwise than by a reset: {others:?}"));
    }
    if record.path != "tunnel" {
        unexpected.push(format!("the first new connection did not go by a tunnel: {record}"));
    }
    if before.iter().any(|pid| after.contains(pid)) {
        unexpected.push(format!("workers were {before:?} and are {after:?}"));
    }
    let text = format!(
        "worker {} of {} killed, {} serves; {resets} requests under way were reset, {} refused, {} answered; a connection held \
         since before saw its reset after {}; the first new one was answered {} after the kill, by {}",
        numbers(&before),
        node.name(),
        numbers(&after),
        count(&report, "refused"),
        report.succeeded,
        time(reset),
        time(served),
        record.path,
    );
    Ok(Seen { text, unexpected, ..Seen::default() })
}

fn count(report: &LoadReport, word: &str) -> usize {
    report.failures.iter().filter(|(_, text)| text.contains(word)).count()
}

fn numbers(pids: &[u32]) -> String {
    pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
