//! What a source says, in steps.

use std::sync::Arc;

use aquifer_model::Update;

use crate::{Counts, Problem, Standings};

/// What changed in a source since it last said something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// What changed since the batch before, to be applied at once.
    pub updates: Vec<Update>,
    /// Everything that there is was read; true from the first batch on.
    pub synced: bool,
    /// All problems that stand now, also those that stood before; at most [`MAX_PROBLEMS`](crate::folder::MAX_PROBLEMS), the worst
    /// first.
    pub problems: Vec<Problem>,
    /// How many objects are in use, by kind.
    pub counts: Counts,
    /// What is known of the policies themselves; only an API server tells.
    pub policies: Arc<Standings>,
}
