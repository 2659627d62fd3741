//! How a process comes to serve its node: alone, from the process that serves it, or in the place of one that hangs.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::sys::signal::{Signal, kill};
use tokio::time::sleep;
use tracing::{info, warn};

use super::NodeLock;
use crate::config::NodeConfig;
use crate::enrolment::Enrolment;
use crate::succession::{self, Before, Unclaimed};

/// A process that has the lock and is not heard for so long hangs. Longer than one may be busy with an upgrade.
const HUNG: Duration = Duration::from_secs(10);
/// How long it may take to end, once by itself and once killed.
const GOODBYE: Duration = Duration::from_secs(3);
/// Pause between two tries where the process that serves may be about to open its door, or to end.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// Pause between two tries where it is well and keeps the node; a node that nobody serves any more is taken so soon.
const LATER: Duration = Duration::from_secs(1);

/// What a process begins with.
pub(super) enum Place {
    /// Nobody serves the node.
    Free(NodeLock),
    /// A process serves it and gives it up; with copies of all that it has enrolled.
    From(Before, Vec<Enrolment>),
}

/// Waits until this process can serve the node.
///
/// # Errors
/// Another process serves it, and is not to be succeeded, or hangs and cannot be ended.
pub(super) async fn take(config: &NodeConfig) -> anyhow::Result<Place> {
    let door = succession::door(&config.run_dir, &config.node);
    let mut silent: Option<Instant> = None;
    let mut said = None;
    loop {
        let taken = match NodeLock::take(&config.run_dir, &config.node) {
            Ok(lock) => return Ok(Place::Free(lock)),
            Err(taken) if config.take_over => taken,
            Err(taken) => return Err(taken),
        };
        let began = Instant::now();
        match Before::claim(&door, config.instance.clone()).await {
            Ok((before, enrolments)) => return Ok(Place::From(before, enrolments)),
            Err(Unclaimed::Wait(why)) => {
                silent = None;
                if said.as_ref() != Some(&why) {
                    info!(%why, "another process serves this node and keeps it for now: this one waits");
                    said = Some(why);
                }
                sleep(LATER).await;
            }
            Err(Unclaimed::Refused(why)) => {
                warn!(%why, "the process that serves this node cannot hand it over: it is ended, and pods are enrolled anew");
                evict(config).await.map_err(|error| taken.context(format!("{error:#}")))?;
            }
            Err(Unclaimed::Silent(why)) => {
                if silent.get_or_insert(began).elapsed() < HUNG {
                    sleep(TRY_AGAIN).await;
                    continue;
                }
                if NodeLock::holder(&config.run_dir, &config.node).is_none() {
                    // It has just ended, or it is no process that keeps the lock from us.
                    return NodeLock::take(&config.run_dir, &config.node).map(Place::Free);
                }
                warn!(
                    why = format!("{why:#}"),
                    "the process that serves this node hangs: it is ended, and pods are enrolled anew"
                );
                evict(config).await.map_err(|error| taken.context(format!("{error:#}")))?;
                silent = None;
            }
        }
    }
}

/// Ends the process that has the node's lock. Until it is gone its worker may serve its pods.
async fn evict(config: &NodeConfig) -> anyhow::Result<()> {
    let (run_dir, node) = (&config.run_dir, &config.node);
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let Some(holder) = NodeLock::holder(run_dir, node) else { return Ok(()) };
        if holder.as_raw() <= 0 || !NodeLock::is_open_in(run_dir, node, holder) {
            return Err(anyhow!(
                "the process that serves the node cannot be ended: its number {holder} is not of this process namespace"
            ));
        }
        warn!(pid = %holder, %signal, "told to end");
        kill(holder, signal).with_context(|| format!("process {holder}, which serves the node"))?;
        let until = Instant::now() + GOODBYE;
        while NodeLock::holder(run_dir, node).is_some() && Instant::now() < until {
            sleep(TRY_AGAIN).await;
        }
    }
    match NodeLock::holder(run_dir, node) {
        None => Ok(()),
        Some(holder) => Err(anyhow!("process {holder} was killed and still has the node")),
    }
}
