//! Where a pod's network namespace is: as its source says, or found by its processes.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aquifer_model::Workload;
use aquifer_sys::pods;

/// A look at all processes is good for so long: many pods that begin at once are found by one.
const FRESH: Duration = Duration::from_millis(100);

/// Finds the network namespaces of this node's pods.
#[derive(Debug, Default)]
pub(crate) struct Places {
    seen: Mutex<Option<(Instant, HashMap<String, PathBuf>)>>,
}

impl Places {
    /// The path of the pod's namespace. `None`: none of its processes runs (yet), or it is of the host's network. May block for
    /// the length of a look at all processes, some milliseconds.
    pub(crate) fn of(&self, workload: &Workload) -> io::Result<Option<PathBuf>> {
        if let Some(path) = workload.netns() {
            return Ok(Some(path.to_owned()));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = seen.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        if fresh.is_none() {
            *seen = Some((Instant::now(), pods::namespaces()?));
        }
        Ok(seen.as_ref().and_then(|(_, places)| workload.uid().with_str(|uid| places.get(uid).cloned())))
    }
}
