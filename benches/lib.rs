//! The parts of the data-plane bench: topology, contenders, load, measuring and the table.
//!
//! `benches/dataplane.rs` puts them together and says how a run goes.

mod aquifer;
mod certificates;
pub mod contender;
pub mod load;
pub mod machine;
mod memory;
pub mod metric;
pub mod report;
pub mod scenario;
pub mod topology;
mod usage;
