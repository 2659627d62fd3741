//! The CNI plug-in: what it and the container runtime say to each other, what it asks the node, and how it comes into the
//! runtime's configuration.
//!
//! The plug-in runs as the last of a chain, once for each pod that begins or ends. It changes nothing: it waits until the node
//! has the pod in the mesh, so that no process of the pod runs before its traffic is captured. [`plugin::run`] says all that it
//! does, [`conflist`] is how the node puts it in its place, [`node`] what the two say to each other.

pub mod conflist;
pub mod node;
pub mod outside;
pub mod plugin;
pub mod spec;
