//! Where the mesh's data comes from: Kubernetes objects, of a folder of YAML or of an API server, become
//! [`Update`](aquifer_model::Update)s.
//!
//! The chain of a folder is: bytes → documents with positions → [`Object`]s, each what the mesh needs of one Kubernetes object
//! → [`Objects`], the store → [`translate`] → [`World`], whose [`diff`](World::diff) is the list of updates. An API server's objects
//! take the same way from the second step on.

mod batch;
pub mod cluster;
mod config;
mod decode;
mod field;
pub mod folder;
mod metrics;
pub mod object;
mod problem;
mod read;
mod slices;
mod stand_in;
mod standing;
#[cfg(test)]
mod testing;
pub mod verdict;
mod world;
mod yaml;

pub use batch::Batch;
pub use config::TranslateConfig;
pub use field::{Complain, Field, Step};
pub use metrics::SourceMetrics;
pub use object::{Counts, Key, Kind, Object, Objects};
pub use problem::{Problem, Severity, SourceError};
pub use standing::{Standing, Standings, Taken, Written};
pub use world::{World, translate};

/// Reads any bytes as a file of Kubernetes YAML and translates what is in it: the whole way that input from outside
/// takes, for fuzz targets. Returns normally whatever the bytes are; the numbers are those of the objects that were
/// taken, and of those that were not.
pub fn fuzz_yaml(bytes: &[u8]) -> (usize, usize) {
    let read = || {
        let contents = read::read(bytes, &TranslateConfig::default());
        let mut objects = Objects::default();
        let counts = (contents.objects.len(), contents.broken.len());
        for (key, object, _) in contents.objects {
            objects.insert(key, object);
        }
        for (key, object) in contents.broken.into_iter().filter_map(|broken| broken.stand_in) {
            objects.insert(key, object);
        }
        translate(&objects);
        counts
    };
    // Without a thread nothing was read.
    yaml::with_stack(read).unwrap_or_default()
}
