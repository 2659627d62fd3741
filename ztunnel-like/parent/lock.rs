//! The lock of a node, which only one process has, and the record of what that process has enrolled.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

use crate::enrolment::EnrolmentRecord;
use crate::succession;

/// The one lock of a node name in a run directory, with the pid of who holds it.
#[derive(Debug)]
pub struct NodeLock {
    _file: Flock<File>,
    record: PathBuf,
}

impl NodeLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another process serves this node (it is named), or the directory cannot be written.
    pub fn take(run_dir: &Path, node: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(run_dir)
            .with_context(|| format!("run directory {}: choose another with --run-dir", run_dir.display()))?;
        let path = lock_file(run_dir, node);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("lock file {}", path.display()))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, _)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).ok();
                bail!(
                    "node {node} is already served by process {} (lock {}): stop that one first, or give this one another --node or --run-dir",
                    holder.trim(),
                    path.display()
                );
            }
        };
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file, record: run_dir.join(format!("{node}.enrolled.json")) })
    }

    /// Who holds the lock, if anybody does.
    pub fn holder(run_dir: &Path, node: &str) -> Option<Pid> {
        let mut file = File::open(lock_file(run_dir, node)).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => None,
            Err(_) => text.trim().parse().ok().map(Pid::from_raw),
        }
    }

    /// What was enrolled when the record was last written.
    pub fn recorded(&self) -> Vec<EnrolmentRecord> {
        std::fs::read(&self.record)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Takes the record away: nothing is enrolled.
    pub(super) fn forget(&self) {
        std::fs::remove_file(&self.record).ok();
    }

    /// Takes all files of the node away, and their directory if nothing else is in it: the mesh is removed from this machine.
    pub(super) fn remove_traces(self, run_dir: &Path, node: &str) {
        self.forget();
        std::fs::remove_file(succession::door(run_dir, node)).ok();
        std::fs::remove_file(lock_file(run_dir, node)).ok();
        // In a pod the directory is a mount, and can only be removed where it is none: in the machine's own tree.
        let host = Path::new("/proc/1/root").join(run_dir.strip_prefix("/").unwrap_or(run_dir));
        std::fs::remove_dir(run_dir).or_else(|_| std::fs::remove_dir(host)).ok();
    }

    /// Writes down what is enrolled, by rename: the next node process and `--leave` without one read it.
    pub(super) fn write_record(&self, records: &[EnrolmentRecord]) -> std::io::Result<()> {
        let draft = self.record.with_extension("draft");
        std::fs::write(&draft, serde_json::to_vec_pretty(&records)?)?;
        std::fs::rename(draft, &self.record)
    }
}

fn lock_file(run_dir: &Path, node: &str) -> PathBuf {
    run_dir.join(format!("{node}.lock"))
}
