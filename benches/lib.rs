//! The parts of the data-plane bench: topology, contenders, load, measuring and tables.
//!
//! `benches/dataplane.rs` puts them together and says how a run goes.

mod aquifer;
pub mod baseline;
mod certificates;
pub mod contender;
pub mod goals;
pub mod growth;
pub mod limits;
pub mod load;
pub mod machine;
mod memory;
pub mod mesh;
pub mod metric;
pub mod report;
pub mod scenario;
pub mod session;
mod svg;
pub mod table;
mod talk;
pub mod topology;
mod usage;
mod world;
