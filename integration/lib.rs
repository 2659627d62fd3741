//! The test bed: nodes and pods as network namespaces, applications, faults and captures as values, so that a scenario reads as a story.
//!
//! A scenario gets a [`Stage`], builds a [`Mesh`] on it, lets pods call each other and asks three witnesses what happened:
//! the applications ([`app`]), the wire outside the pods ([`Wire`]) and the node's own flow records ([`NodeProcess`]). All of
//! it runs in a sandbox of the scenario's own ([`sandbox`]); the demo and the benches use the same values without one.

pub mod app;
pub mod bed;
pub mod client;
pub mod fault;
mod http;
pub mod load;
pub mod manifests;
pub mod mesh;
pub mod node;
mod pattern;
pub mod peers;
pub mod pod;
pub mod runner;
pub mod sandbox;
pub mod wait;
pub mod wire;

pub use app::{Ended, Serve, Server};
pub use bed::{Bed, Families, Plan};
pub use client::{CallError, Conn, Reply, Transfer};
pub use load::{Held, Load, LoadReport};
pub use manifests::{Manifests, ServiceSpec};
pub use mesh::Mesh;
pub use node::{FlowRecord, NodeProcess};
pub use pod::{Pod, PodSpec};
pub use runner::{Scenario, Skip, Stage, main};
pub use wait::wait_for;
pub use wire::{Seen, Wire};
