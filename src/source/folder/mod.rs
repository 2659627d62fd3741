//! A folder of Kubernetes YAML as a source: read once with [`load`], or followed with [`watch`].
//!
//! Files ending in `.yaml`, `.yml` and `.json` are read, in nested folders too; names that start with a dot are left
//! out (editors and ConfigMap mounts keep their own things there), symbolic links are followed.

mod file;
mod inotify;
mod state;
mod walk;
mod watch;

use std::path::Path;
use std::time::Instant;

use crate::{Objects, Problem, SourceError, TranslateConfig};

pub use watch::watch;

/// Bytes of a file at most. Kubernetes' own objects end at 1.5 MiB; this holds a list of thousands of pods.
pub const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Files at most, so that a folder given by mistake (`/`) ends in an error and not in hours of reading.
pub const MAX_FILES: usize = 100_000;

/// Objects at most: about 1 KiB of memory each.
pub const MAX_OBJECTS: usize = 1_000_000;

/// Problems in one [`Batch`](crate::Batch) at most; a last one then says how many were left out.
pub const MAX_PROBLEMS: usize = 1_000;

/// Reads a folder once. An error where a part of it cannot be read: a part may hold a policy, and must not be missed.
pub fn load(dir: &Path, config: &TranslateConfig) -> Result<(Objects, Vec<Problem>), SourceError> {
    let mut folder = state::Folder::new(dir.to_owned(), config.clone());
    let listing = walk::walk(dir)?;
    folder.start(&listing, Instant::now())?;
    let problems = folder.problems();
    Ok((folder.into_objects(), problems))
}

#[cfg(test)]
mod tests;
