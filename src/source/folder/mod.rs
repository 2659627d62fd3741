//! A folder of Kubernetes YAML as a source: read once with [`load`], or followed with [`watch`].

use std::path::{Path, PathBuf};

use aquifer_model::Update;
use tokio::sync::mpsc;

use crate::{Counts, Objects, Problem, SourceError, TranslateConfig};

/// What a watched folder says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// What changed since the batch before, to be applied at once.
    pub updates: Vec<Update>,
    /// Everything that there is was read; true from the first batch on.
    pub synced: bool,
    /// All problems that stand now, also those that stood before; at most [`MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// How many objects are in use, by kind.
    pub counts: Counts,
}

/// Problems in one [`Batch`] at most; a last one then says how many were left out.
pub const MAX_PROBLEMS: usize = 1_000;

/// Reads a folder once.
pub fn load(dir: &Path, config: &TranslateConfig) -> Result<(Objects, Vec<Problem>), SourceError> {
    let _ = (dir, config);
    todo!()
}

/// Follows a folder and sends what changes, until the receiver is gone.
pub async fn watch(
    dir: PathBuf,
    config: TranslateConfig,
    batches: mpsc::Sender<Batch>,
) -> Result<(), SourceError> {
    let _ = (dir, config, batches);
    todo!()
}
