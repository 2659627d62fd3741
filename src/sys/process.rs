//! What this process is, may and uses: parent, limits, privileges, memory.

use std::{io, time::Duration};

/// Makes the kernel kill this process (SIGKILL) when its parent dies, and fails if the parent is not `parent` any more.
pub fn die_with_parent(_parent: u32) -> io::Result<()> {
    todo!()
}

/// Raises the limit of open descriptors to the hard limit and says what it is now.
pub fn raise_nofile() -> io::Result<u64> {
    todo!()
}

/// What this process lacks to capture traffic, one sentence each with its remedy; empty if nothing. Takes a few milliseconds.
pub fn missing() -> Vec<String> {
    todo!()
}

/// The memory limit of the control group (v2, else v1), in bytes; the smallest on the way to the root; `None` without one.
pub fn memory_limit() -> Option<u64> {
    todo!()
}

/// What the process uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in bytes.
    pub rss: u64,
    /// CPU time used, user and system.
    pub cpu: Duration,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// Reads [`Usage`] from /proc.
pub fn usage() -> io::Result<Usage> {
    todo!()
}

/// Resident memory in bytes.
pub fn rss() -> io::Result<u64> {
    Ok(usage()?.rss)
}
