//! The lock of a node, which only one process has, and the record of what that process has enrolled.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

use crate::enrolment::EnrolmentRecord;
use crate::succession;

/// Instances that are remembered. Each rolling update has one more, and is over long before so many others have come.
const INSTANCES: usize = 64;

/// The one lock of a node name in a run directory, with the pid of who holds it.
#[derive(Debug)]
pub struct NodeLock {
    _file: Flock<File>,
    record: PathBuf,
    instances: PathBuf,
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
        Ok(Self {
            _file: file,
            record: run_dir.join(format!("{node}.enrolled.json")),
            instances: run_dir.join(format!("{node}.instances")),
        })
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

    /// Whether a process has the lock's file open. What the file says may be of another process namespace, where the same number is somebody
    /// else's.
    pub(super) fn is_open_in(run_dir: &Path, node: &str, process: Pid) -> bool {
        let id = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        let Some(lock) = id(&lock_file(run_dir, node)) else { return false };
        let open = std::fs::read_dir(format!("/proc/{process}/fd"));
        open.into_iter().flatten().flatten().any(|fd| id(&fd.path()) == Some(lock))
    }

    /// Writes down that an instance serves the node, unless it did before.
    pub(super) fn enter(&self, instance: &str) -> std::io::Result<()> {
        let mut known = self.known();
        if known.iter().any(|other| other == instance) {
            return Ok(());
        }
        known.push(instance.to_owned());
        let newest = known.len().saturating_sub(INSTANCES);
        let draft = self.instances.with_extension("instances.draft");
        std::fs::write(&draft, known.split_off(newest).join("\n"))?;
        std::fs::rename(draft, &self.instances)
    }

    /// Whether one instance served the node before another did for the first time.
    pub(super) fn precedes(&self, one: &str, other: &str) -> bool {
        let known = self.known();
        let place = |name: &str| known.iter().position(|known| known == name);
        place(one).zip(place(other)).is_some_and(|(one, other)| one < other)
    }

    /// Instances by when they served for the first time, the oldest first.
    fn known(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.instances).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
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
        std::fs::remove_file(&self.instances).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_keep_the_order_in_which_they_first_served() {
        let dir = tempfile::tempdir().unwrap();
        let lock = NodeLock::take(dir.path(), "n").unwrap();
        for name in ["a", "b", "a"] {
            lock.enter(name).unwrap();
        }
        assert!(lock.precedes("a", "b"));
        for (one, other) in [("b", "a"), ("a", "a"), ("new", "b"), ("b", "new")] {
            assert!(!lock.precedes(one, other), "{one} before {other}");
        }
        for name in 0..2 * INSTANCES {
            lock.enter(&name.to_string()).unwrap();
        }
        assert_eq!(lock.known().len(), INSTANCES);
        assert!(!lock.precedes("a", "b") && lock.precedes("100", "101"));
    }

    #[test]
    fn a_holder_is_known_by_the_file_it_has_open() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = NodeLock::take(dir.path(), "n").unwrap();
        assert_eq!(NodeLock::holder(dir.path(), "n"), Some(Pid::this()));
        assert!(NodeLock::is_open_in(dir.path(), "n", Pid::this()));
        assert!(!NodeLock::is_open_in(dir.path(), "n", Pid::from_raw(1)));
    }
}
