//! The node proxy: enrols the pods of a node, captures their traffic in their network namespaces, and carries it.
//!
//! Where to begin reading: [`worker`] builds everything; `life` is one pod's time in the mesh; `outbound`, `inbound`
//! and `plaintext` each say the whole way of one connection, top to bottom.

mod accept;
mod admit;
mod cache;
mod carry;
pub mod cni;
pub mod config;
mod control;
mod core;
mod ending;
pub mod enrolment;
mod failure;
mod handover;
mod inbound;
mod keeper;
mod kept;
mod kubelet;
mod leave;
mod life;
mod live;
mod observe;
mod outbound;
pub mod parent;
mod place;
mod plaintext;
mod pod;
pub mod protocol;
mod report;
mod shared;
mod source;
mod standing;
mod states;
pub mod succession;
mod tunnel;
pub mod worker;
