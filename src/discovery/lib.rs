//! The mesh over the wire: [`Update`](aquifer_model::Update)s as resources of delta xDS, server and client.
//!
//! A server holds a [`Feed`](server::Feed), the resources of now, encoded once for all streams; a stream knows only which moment it has
//! told, and is told the difference to now. A client hands on whole moments: what belongs together is applied together.

pub mod client;
mod convert;
mod istio;
pub mod server;
#[cfg(test)]
mod testing;
mod types;
mod version;

pub use client::{fuzz_answer, kept, kept::fuzz_kept};
pub use convert::{Encoded, Removed, WireError, decode, encode, fuzz_resource, removed};
pub use types::{IstioType, Served, Type};

/// Messages of the wire.
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated from proto/")]
pub mod proto {
    /// Envoy's discovery.
    pub mod xds {
        tonic::include_proto!("envoy.service.discovery.v3");
    }
    /// The mesh.
    pub mod mesh {
        tonic::include_proto!("aquifer.discovery.v1alpha1");
    }
    /// Istio's pods and Services.
    pub mod workload {
        tonic::include_proto!("istio.workload");
    }
    /// Istio's policies.
    pub mod security {
        tonic::include_proto!("istio.security");
    }
}
