//! Where the mesh's data comes from: Kubernetes objects, read from a folder of YAML, become
//! [`Update`](aquifer_model::Update)s.
//!
//! The chain is: bytes → documents with positions → [`Object`]s, each what the mesh needs of one Kubernetes object
//! → [`Objects`], the store → [`translate`] → [`World`], whose [`diff`](World::diff) is the list of updates.

mod config;
pub mod folder;
mod object;
mod problem;
mod world;

pub use config::TranslateConfig;
pub use object::{Counts, Key, Kind, Object, Objects};
pub use problem::{Problem, Severity, SourceError};
pub use world::{World, translate};
