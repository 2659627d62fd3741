//! The mesh: indexes, applying updates, immutable snapshots.

use std::sync::Arc;

use ipnet::IpNet;

use crate::{Change, Snapshot, Update};

/// What a [`Mesh`] must be told once.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Namespace whose policies without selector hold in the whole mesh (design: `aquifer-system`).
    pub root_namespace: Arc<str>,
    /// Networks whose addresses all belong to the mesh. `None`: the podCIDRs of the Nodes; `Some(vec![])`: none, the
    /// rule about unknown destinations is off.
    pub networks: Option<Vec<IpNet>>,
}

/// The mesh as it is now: takes [`Update`]s, gives out [`Snapshot`]s.
#[derive(Debug)]
pub struct Mesh {
    current: Arc<Snapshot>,
}

impl Mesh {
    /// An empty mesh.
    pub fn new(config: MeshConfig) -> Self {
        let _ = config;
        todo!()
    }

    /// Applies a batch as one step: readers see all of it or nothing. Returns the net effect; a batch without one
    /// leaves the snapshot as it is.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) -> Change {
        let _ = updates;
        todo!()
    }

    /// The mesh at this moment. Costs a reference count.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.clone()
    }
}
