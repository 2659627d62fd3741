//! The last moment of the mesh, kept on the node: a process that starts while neither controller nor API server answers serves it.
//!
//! It lies in the run directory, which lives as long as the pods of the node do. What is kept says whose it is: of another node, cluster
//! or trust domain, or of a mesh none of whose roots is trusted any more, it is not used.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aquifer_discovery::kept::{self as codec, KeptError};
use aquifer_model::{Snapshot, Update};
use aquifer_pki::TrustBundle;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use crate::config::NodeConfig;
use crate::kept;

/// A change is written so long after it, together with those that follow it closely.
const SETTLE: Duration = Duration::from_secs(1);
/// Shortest pause between two writings.
const PAUSE: Duration = Duration::from_secs(5);
/// The pause is so many times as long as the writing took: it costs no more than a hundredth of a core, however large the mesh is.
const SHARE: u32 = 100;
/// Bytes that are written or read at most: several times what 100,000 workloads have. The file is in memory, where /run mostly is.
const MOST: u64 = 256 << 20;
/// A process that starts waits so long for controller and API server before it serves what is kept.
const GRACE: Duration = Duration::from_secs(1);
/// The same where another serves until it does, which knows more than what is kept. It has ten seconds to begin to serve.
const GRACE_RELIEVING: Duration = Duration::from_secs(5);

/// A moment that was kept.
pub(crate) struct Moment {
    /// When it was the mesh.
    pub(crate) at: SystemTime,
    /// All of it.
    pub(crate) updates: Vec<Update>,
}

/// Whose moment it is, and when it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Label {
    node: String,
    cluster: String,
    trust_domain: String,
    /// Those that were trusted.
    roots: Vec<String>,
    /// Seconds since 1970.
    at: u64,
}

/// Where the moment is kept, and as whose.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    path: PathBuf,
    label: Label,
    most: u64,
}

impl Shelf {
    /// Of a node, which trusts these roots now.
    pub(crate) fn of(config: &NodeConfig, trusted: &TrustBundle) -> Self {
        let label = Label {
            node: config.node.clone(),
            cluster: config.mesh.cluster_id.clone(),
            trust_domain: config.mesh.trust_domain.clone(),
            roots: trusted.roots().iter().map(|root| root.id.to_string()).collect(),
            at: 0,
        };
        Self { path: kept::moment(&config.run_dir, &config.node), label, most: MOST }
    }

    /// The moment that is kept, after a grace for those who know better; `None` where there is none that is ours.
    pub(crate) async fn after_grace(self, relieves: bool) -> Option<Moment> {
        sleep(if relieves { GRACE_RELIEVING } else { GRACE }).await;
        tokio::task::spawn_blocking(move || self.read()).await.ok()?
    }

    /// Reads it. Why it is not used is said in the log.
    fn read(&self) -> Option<Moment> {
        match self.load() {
            Ok(moment) => Some(moment),
            Err(KeptError::Read(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(why) => {
                warn!(path = %self.path.display(), %why, "the moment of the mesh that this node kept is not used; it is replaced by the next");
                None
            }
        }
    }

    fn load(&self) -> Result<Moment, KeptError> {
        let file = File::open(&self.path)?;
        let size = file.metadata()?.len();
        if size > self.most {
            return Err(KeptError::NotOurs(format!("it has {size} bytes, more than {}", self.most)));
        }
        let from = BufReader::with_capacity(64 << 10, file.take(self.most));
        let (at, updates) = codec::read(from, |label| self.takes(label))?;
        Ok(Moment { at, updates })
    }

    /// When it was, or why it is not ours.
    fn takes(&self, label: &[u8]) -> Result<SystemTime, String> {
        let theirs: Label = serde_json::from_slice(label).map_err(|error| format!("its label: {error}"))?;
        let same = |what: &str, theirs: &str, ours: &str| match theirs == ours {
            true => Ok(()),
            false => Err(format!("it is of {what} {theirs:?}, and this is {ours:?}")),
        };
        same("node", &theirs.node, &self.label.node)?;
        same("cluster", &theirs.cluster, &self.label.cluster)?;
        same("trust domain", &theirs.trust_domain, &self.label.trust_domain)?;
        if !theirs.roots.iter().any(|root| self.label.roots.contains(root)) {
            return Err("it is of a mesh whose roots are not trusted here".to_owned());
        }
        UNIX_EPOCH.checked_add(Duration::from_secs(theirs.at)).ok_or_else(|| "its time is none".to_owned())
    }

    /// Writes a moment of now, and returns how many bytes it has.
    fn write(mut self, updates: impl IntoIterator<Item = Update>) -> io::Result<u64> {
        self.label.at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let label = serde_json::to_vec(&self.label)?;
        kept::replace(&self.path, |file| {
            let to = Bounded { inner: BufWriter::with_capacity(64 << 10, file), left: self.most };
            codec::write(to, &label, updates)
        })
    }
}

/// Keeps the moment of now, when it changed: off the data path, and seldom enough to cost nothing.
pub(crate) struct Cache {
    config: NodeConfig,
    changed: bool,
    /// Not before then.
    next: Instant,
    /// At most one.
    writing: JoinSet<(io::Result<u64>, Duration)>,
    /// What was said in the log of the last failure.
    said: Option<String>,
}

impl Cache {
    /// Keeps nothing before it is told of a change.
    pub(crate) fn new(config: &NodeConfig) -> Self {
        kept::sweep(&kept::moment(&config.run_dir, &config.node));
        let config = config.clone();
        Self { config, changed: false, next: Instant::now(), writing: JoinSet::new(), said: None }
    }

    /// The mesh is another one now.
    pub(crate) fn changed(&mut self) {
        if !std::mem::replace(&mut self.changed, true) {
            self.next = self.next.max(Instant::now() + SETTLE);
        }
    }

    /// Waits until it is time to write. Safe to drop half-way.
    pub(crate) async fn due(&mut self) {
        if let Some(done) = self.writing.join_next().await {
            self.written(done.unwrap_or_else(|error| (Err(io::Error::other(error)), Duration::ZERO)));
        }
        match self.changed {
            true => sleep_until(self.next).await,
            false => std::future::pending().await,
        }
    }

    /// Writes the mesh of now.
    pub(crate) fn write(&mut self, mesh: Arc<Snapshot>, trusted: &TrustBundle) {
        self.changed = false;
        let shelf = Shelf::of(&self.config, trusted);
        self.writing.spawn_blocking(move || {
            let began = std::time::Instant::now();
            (shelf.write(mesh.updates()), began.elapsed())
        });
    }

    fn written(&mut self, (outcome, took): (io::Result<u64>, Duration)) {
        self.next = Instant::now() + PAUSE.max(took * SHARE);
        match outcome {
            Ok(bytes) => {
                tracing::debug!(bytes, ?took, "the moment of the mesh is kept");
                if self.said.take().is_some() {
                    info!("the moment of the mesh is kept again");
                }
            }
            Err(error) => {
                let said = error.to_string();
                if self.said.as_ref() != Some(&said) {
                    let path = kept::moment(&self.config.run_dir, &self.config.node);
                    warn!(path = %path.display(), %error, "the mesh of now cannot be kept: should this process start anew without controller and API server, it has only what was kept before; make room there");
                    self.said = Some(said);
                }
            }
        }
    }
}

/// Waits for what a task of `cache` is about; for ever where there is none.
pub(crate) async fn due(cache: &mut Option<Cache>) {
    match cache {
        Some(cache) => cache.due().await,
        None => std::future::pending().await,
    }
}

/// A time as people read it, to the second.
pub(crate) fn utc(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "a time that is none".to_owned(), |time| time.to_string())
}

/// A writer that takes no more than so many bytes.
struct Bounded<W> {
    inner: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
