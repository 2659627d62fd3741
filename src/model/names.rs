//! Names of things: cheap to clone, compared by value.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::Text;

/// `namespace/name` of a namespaced Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct NamespacedName {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// Pairs a namespace with a name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Namespace and name of a Pod object, lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct PodRef<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: &'a str,
}

impl PartialEq<NamespacedName> for PodRef<'_> {
    fn eq(&self, other: &NamespacedName) -> bool {
        self.namespace == &*other.namespace && self.name == &*other.name
    }
}

impl fmt::Display for PodRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Istio's uid of a workload, `cluster/group/kind/namespace/name` (for a pod `Kubernetes//Pod/shop/cart-0`).
/// A recreated StatefulSet pod keeps it; see [`PodUid`](crate::PodUid) for the incarnation. Ordered as its text is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WorkloadName {
    /// All up to the last `/`, with it: the same for all pods of a namespace.
    scope: Text,
    /// What follows, without a `/`.
    name: Text,
}

impl WorkloadName {
    /// The name of a pod's workload.
    pub fn pod(cluster: &str, namespace: &str, name: &str) -> Self {
        match name.contains('/') {
            true => Self::from_wire(format!("{cluster}//Pod/{namespace}/{name}")),
            false => Self { scope: format!("{cluster}//Pod/{namespace}/").into(), name: name.into() },
        }
    }

    /// Takes a name as another control plane wrote it.
    pub fn from_wire(name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        let (scope, name) = name.split_at(name.rfind('/').map_or(0, |slash| slash + 1));
        Self { scope: scope.into(), name: name.into() }
    }

    /// What comes before the first `/`.
    pub fn cluster(&self) -> &str {
        let first = if self.scope.is_empty() { &self.name } else { &self.scope };
        first.split('/').next().unwrap_or_default()
    }

    /// What comes after the last `/`: for a pod, its own name.
    pub fn name(&self) -> &Text {
        &self.name
    }

    pub(crate) fn share(&mut self, mut shared: impl FnMut(&mut Text)) {
        shared(&mut self.scope);
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.scope.bytes().chain(self.name.bytes())
    }
}

impl Ord for WorkloadName {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.scope == other.scope {
            true => self.name.cmp(&other.name),
            false => self.bytes().cmp(other.bytes()),
        }
    }
}

impl PartialOrd for WorkloadName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scope)?;
        f.write_str(&self.name)
    }
}

impl fmt::Debug for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkloadName({self})")
    }
}

impl serde::Serialize for WorkloadName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_name_is_its_text_whatever_it_was_made_of() {
        let pod = WorkloadName::pod("Kubernetes", "shop", "cart-0");
        assert_eq!(pod, WorkloadName::from_wire("Kubernetes//Pod/shop/cart-0"));
        assert_eq!((pod.cluster(), pod.name().as_str()), ("Kubernetes", "cart-0"));
        let odd = WorkloadName::pod("c", "a", "b/c");
        assert_eq!(odd, WorkloadName::from_wire("c//Pod/a/b/c"));
        for text in ["", "/", "a", "a/", "/a", "Kubernetes//Pod/shop/cart-0"] {
            let name = WorkloadName::from_wire(text);
            assert_eq!(name.to_string(), text);
            assert_eq!(name.cluster(), text.split('/').next().unwrap());
        }
    }

    #[test]
    fn workload_names_stand_in_the_order_of_their_texts() {
        // `-` and `.` stand before `/`, letters behind it.
        let texts = ["", "/", "a", "a/", "a/b", "a-b/", "a-b/a", "a.b/c", "ab/c", "a//", "a//b"];
        for (a, b) in texts.iter().flat_map(|a| texts.map(|b| (*a, b))) {
            assert_eq!(WorkloadName::from_wire(a).cmp(&WorkloadName::from_wire(b)), a.cmp(b), "{a} {b}");
        }
    }
}
