//! Where a pod's network namespace is: as its source says, as the container runtime told when it began, or found by its processes.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aquifer_model::{PodUid, Workload};
use aquifer_sys::pods;

/// A look at all processes is good for so long: many pods that begin at once are found by one.
const FRESH: Duration = Duration::from_millis(100);

/// Finds the network namespaces of this node's pods.
#[derive(Debug, Default)]
pub(crate) struct Places {
    seen: Mutex<Option<(Instant, HashMap<String, PathBuf>)>>,
    announced: Mutex<HashMap<PodUid, Announced>>,
}

/// What the container runtime told of a pod.
#[derive(Debug)]
struct Announced {
    sandbox: String,
    path: PathBuf,
}

impl Places {
    /// The path of the pod's namespace. `None`: none of its processes runs (yet), or it is of the host's network. May block for
    /// the length of a look at all processes, some milliseconds.
    pub(crate) fn of(&self, workload: &Workload) -> io::Result<Option<PathBuf>> {
        if let Some(path) = workload.netns() {
            return Ok(Some(path.to_owned()));
        }
        let announced = self.all_announced().get(workload.uid()).map(|announced| announced.path.clone());
        if let Some(path) = announced.filter(|path| path.exists()) {
            return Ok(Some(path));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = seen.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        if fresh.is_none() {
            *seen = Some((Instant::now(), pods::namespaces()?));
        }
        Ok(seen.as_ref().and_then(|(_, places)| workload.uid().with_str(|uid| places.get(uid).cloned())))
    }

    /// The runtime begins a sandbox of this pod. Of the others only those that live are kept.
    pub(crate) fn announce(
        &self,
        uid: PodUid,
        sandbox: &str,
        path: PathBuf,
        lives: impl Fn(&PodUid) -> bool,
    ) {
        let mut announced = self.all_announced();
        announced.retain(|uid, _| lives(uid));
        announced.insert(uid, Announced { sandbox: sandbox.to_owned(), path });
    }

    /// The runtime ends a sandbox. A later one of the same pod stays.
    pub(crate) fn withdraw(&self, sandbox: &str) {
        self.all_announced().retain(|_, announced| announced.sandbox != sandbox);
    }

    /// Whether the runtime has begun the pod, though nobody may have told its addresses yet.
    pub(crate) fn has_begun(&self, uid: &PodUid) -> bool {
        self.all_announced().contains_key(uid)
    }

    fn all_announced(&self) -> MutexGuard<'_, HashMap<PodUid, Announced>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
