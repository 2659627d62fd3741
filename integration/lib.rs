//!
//! A scenario gets a [`Stage`], builds a [`Mesh`] on it, lets pods call each other and asks three witnesses what happened:
//! it runs in a sandbox of the scenario's own ([`sandbox`]); the demo and the benches use the same values without one.

pub mod app;
pub mod bed;
pub mod client;
mod http;
mod pattern;
pub mod peers;
pub mod pod;
pub mod wait;

pub use app::{Ended, Serve, Server};
pub use bed::{Bed, Families, Plan};
pub use client::{CallError, Conn, Reply, Transfer};
pub use pod::{Pod, PodSpec};
pub use wait::wait_for;
