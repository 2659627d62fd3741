//! The test bed: nodes and pods as network namespaces, applications, faults and captures as values, so that a scenario reads as a story.
//!
//! A scenario gets a [`Stage`], builds a [`Mesh`] on it, lets pods call each other and asks three witnesses what happened:
//! the applications ([`app`]), the wire outside the pods ([`Wire`]) and the node's own flow records ([`NodeProcess`]). All of
//! it runs in a sandbox of the scenario's own ([`sandbox`]); the demo and the benches use the same values without one.
//!
//! ```no_run
//! use anyhow::{Result, ensure};
//! use aquifer_integration::{PodSpec, Scenario, Serve, ServiceSpec, Stage};
//!
//! fn main() -> std::process::ExitCode {
//!     aquifer_integration::main(&[Scenario {
//!         name: "a_service_is_called_in_a_tunnel",
//!         story: "A call to a Service's address crosses in a tunnel, and the server sees the true client.",
//!         run: a_service_is_called_in_a_tunnel,
//!     }])
//! }
//!
//! fn a_service_is_called_in_a_tunnel(stage: &mut Stage) -> Result<()> {
//!     let mut mesh = stage.mesh()?;
//!     let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
//!     let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
//!     mesh.service(&ServiceSpec::new("shop/web").vip([10, 96, 0, 1]).port(80, 8080))?;
//!     let _http = web.serve(8080, Serve::Http)?;
//!     mesh.start()?;
//!     let wire = mesh.bed().wire()?;
//!
//!     let reply = client.http_get(([10, 96, 0, 1], 80).into())?;
//!     ensure!(reply.client.is_some_and(|seen| seen.ip() == client.v4()), "it saw {:?}", reply.client);
//!     wire.seen()?.expect_only_tunnels(reply.body.len() as u64)?;
//!     let flow = mesh.destination_flow(&client, &web)?;
//!     ensure!(flow.verdict == "allowed" && flow.source_identity == client.identity(), "{flow}");
//!     Ok(())
//! }
//! ```

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
pub use runner::{Breach, Scenario, Skip, Stage, main, main_refuted};
pub use wait::wait_for;
pub use wire::{Seen, Wire};
