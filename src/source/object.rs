//! What the mesh needs of each Kubernetes object, and the store of them.

/// A Kubernetes kind that the mesh reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {}
/// Which object: kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Kind.
    pub kind: Kind,
}
/// What the mesh needs of one Kubernetes object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {}

/// How many objects there are of each kind, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub std::collections::BTreeMap<Kind, usize>);

/// All objects of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {}
