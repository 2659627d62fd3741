//! Taking a demo away: namespaces, the processes in them, folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::Context;
use aquifer_integration::{Bed, wait_for};
use aquifer_sys::link::{self, NETNS_DIR};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PREFIX;

/// How long a demo that still plays may take to end.
const ENDING: Duration = Duration::from_secs(15);

/// The folder of a demo's manifests, CA and logs, by the process that plays it.
pub(super) fn folder(owner: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{owner}"))
}

/// Takes away what demos left whose process is gone, kept ones among them.
pub(super) fn leftovers() -> anyhow::Result<()> {
    let removed =
        Bed::cleanup_leftovers(Path::new(NETNS_DIR), PREFIX).context("cannot remove an earlier demo")?;
    if !removed.is_empty() {
        eprintln!("removed {} namespaces of an earlier demo", removed.len());
    }
    for owner in owners().into_iter().filter(|owner| !lives(*owner) || *owner == process::id()) {
        remove(&folder(owner))?;
    }
    Ok(())
}

/// Ends demos that still play, and takes all of them away.
pub(super) fn everything() -> anyhow::Result<()> {
    for owner in owners().into_iter().filter(|owner| plays(*owner)) {
        // It cleans up after itself.
        kill(Pid::from_raw(owner.cast_signed()), Signal::SIGTERM).ok();
        wait_for(&format!("the demo of process {owner} to end"), ENDING, || {
            Ok((!lives(owner)).then_some(()))
        })?;
    }
    let removed = Bed::remove_all(Path::new(NETNS_DIR), PREFIX).context("cannot remove a demo")?;
    let folders = owners();
    folders.iter().try_for_each(|owner| remove(&folder(*owner)))?;
    println!("removed {} namespaces and {} folders", removed.len(), folders.len());
    Ok(())
}

/// Takes away what this process made, whoever still uses it.
pub(super) fn own() -> anyhow::Result<()> {
    let own = format!("{PREFIX}{}", process::id());
    for task in fs::read_dir("/proc/self/task")?.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            kill(Pid::from_raw(child), Signal::SIGKILL).ok();
        }
    }
    for name in link::netns_names(Path::new(NETNS_DIR))? {
        let rest = name.strip_prefix(&own);
        if rest.is_some_and(|rest| rest.starts_with(['-', '.'])) {
            // The story may just have removed it.
            link::delete_netns(Path::new(NETNS_DIR), &name).ok();
        }
    }
    remove(&folder(process::id()))
}

/// Processes that have or had a folder of a demo.
fn owners() -> Vec<u32> {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return Vec::new() };
    let owner = |name: &str| name.strip_prefix(PREFIX)?.parse().ok();
    entries.flatten().filter_map(|entry| owner(entry.file_name().to_str()?)).collect()
}

fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether a process is a demo that plays: process ids are used again.
fn plays(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pid != process::id() && command.split(|byte| *byte == 0).any(|argument| argument == b"demo")
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
