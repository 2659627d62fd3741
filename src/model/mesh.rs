//! The mesh: indexes, applying updates, immutable snapshots.
