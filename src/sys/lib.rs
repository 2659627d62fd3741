//! The machine below the mesh, and the only crate with `unsafe` code: network namespaces, sockets, packet rules, descriptors, processes.
//!
//! Everything here blocks, for microseconds (sockets) to some tens of milliseconds (rules), and needs no runtime, so it may be
//! called from anywhere; the asynchronous types are [`fdpass::AsyncChannel`] and [`AsyncListener`]. Nothing here knows what a mesh, a pod or a policy is.
#![allow(unsafe_code)]

pub mod diag;
mod ears;
pub mod fdpass;
pub mod keyring;
pub mod link;
mod listener;
pub mod memory;
mod netlink;
mod netns;
pub mod owner;
pub mod pods;
pub mod process;
pub mod rules;
pub mod socket;

pub use ears::Ears;
pub use listener::AsyncListener;
pub use netns::{NetNs, NetNsId};

/// Firewall mark of every socket of ours (`SO_MARK`), by which the rules in a pod let our own traffic pass. Istio's value.
pub const MARK: u32 = 0x539;
/// Firewall mark of packets that are to be delivered to us instead of leaving the pod. Istio's value.
pub const CAPTURED_MARK: u32 = 0x111;
/// Firewall mark of what the network sends to a pod. It only has the kernel look for the way back as for packets of ours, that is
/// not among the routes of what is captured.
pub const ARRIVED_MARK: u32 = 0x222;
/// The bits of the firewall mark that are ours; the others belong to the user and are never looked at nor written.
pub const MARK_MASK: u32 = 0xfff;
