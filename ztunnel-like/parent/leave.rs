//! The pods of a node un-enrolled from outside its process, or after it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aquifer_sys::NetNs;
use aquifer_sys::rules;
use nix::sys::signal::{Signal, kill};

use super::{NodeLock, vault};
use crate::config::NodeConfig;
use crate::enrolment::EnrolmentRecord;
use crate::kept;

/// Un-enrols all pods of a node: through the running node, or by the record that the last one left.
///
/// # Errors
/// A namespace cannot be entered, or rules cannot be removed: what was left standing is named.
pub fn leave(config: &NodeConfig, patience: Duration) -> anyhow::Result<()> {
    if let Some(holder) = NodeLock::holder(&config.run_dir, &config.node) {
        kill(holder, Signal::SIGUSR2).with_context(|| format!("process {holder}, which serves the node"))?;
        let deadline = Instant::now() + patience;
        while NodeLock::holder(&config.run_dir, &config.node).is_some() {
            if Instant::now() > deadline {
                bail!(
                    "process {holder} still has connections to serve after {patience:?}: un-enrolment goes on"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // Without a node process, or where it ended before it was through.
    let lock = NodeLock::take(&config.run_dir, &config.node)?;
    for record in lock.recorded() {
        if clear(&record)? {
            println!("un-enrolled pod {} ({})", record.uid, record.path.display());
        }
    }
    lock.forget();
    forget_mesh(config);
    for removed in crate::cni::remove(config)
        .context("the CNI plug-in stays, and pods that begin will wait for a node")?
    {
        println!("took the CNI plug-in out of {}", removed.display());
    }
    Ok(())
}

/// Takes the rules of an enrolment away that an earlier process recorded. False where its pod is gone.
pub(super) fn clear(record: &EnrolmentRecord) -> anyhow::Result<bool> {
    if !record.path.exists() {
        return Ok(false);
    }
    let netns =
        NetNs::open(&record.path).with_context(|| format!("network namespace {}", record.path.display()))?;
    rules::remove(&netns, Some(record.generation))
        .with_context(|| format!("packet rules in {}", record.path.display()))?;
    Ok(true)
}

/// Takes away what is kept of the mesh for a next process: no pod of the node is in it.
pub(super) fn forget_mesh(config: &NodeConfig) {
    kept::remove(&kept::moment(&config.run_dir, &config.node));
    vault::forget(&config.run_dir, &config.node);
}
