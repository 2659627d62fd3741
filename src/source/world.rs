//! Objects become the mesh's own data; the difference of two worlds is a list of updates.

use aquifer_model::Update;

use crate::{Objects, TranslateConfig};

/// Everything that a source says about the mesh.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {}

impl World {
    /// The updates that lead from `self` to `next`. An object that is equal in both yields none.
    pub fn diff(&self, next: &World) -> Vec<Update> {
        let _ = next;
        todo!()
    }
}

/// What the objects mean.
pub fn translate(objects: &Objects, config: &TranslateConfig) -> World {
    let _ = (objects, config);
    todo!()
}
