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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct PodRef<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: PodName<'a>,
}

impl PartialEq<NamespacedName> for PodRef<'_> {
    fn eq(&self, other: &NamespacedName) -> bool {
        self.namespace == &*other.namespace && self.name == *other.name
    }
}

impl fmt::Display for PodRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `metadata.name` of a pod, lent by the [`WorkloadName`] that holds it in two pieces.
#[derive(Clone, Copy)]
pub struct PodName<'a> {
    stem: &'a str,
    tail: &'a str,
}

impl<'a> PodName<'a> {
    /// Whether it is no name at all.
    pub fn is_empty(self) -> bool {
        self.stem.is_empty() && self.tail.is_empty()
    }

    fn bytes(self) -> impl Iterator<Item = u8> + use<'a> {
        self.stem.bytes().chain(self.tail.bytes())
    }
}

impl PartialEq for PodName<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes().eq(other.bytes())
    }
}

impl Eq for PodName<'_> {}

impl PartialEq<str> for PodName<'_> {
    fn eq(&self, other: &str) -> bool {
        other.strip_prefix(self.stem) == Some(self.tail)
    }
}

impl PartialEq<&str> for PodName<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl Ord for PodName<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for PodName<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PodName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.stem)?;
        f.write_str(self.tail)
    }
}

impl fmt::Debug for PodName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl serde::Serialize for PodName<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Istio's uid of a workload, `cluster/group/kind/namespace/name` (for a pod `Kubernetes//Pod/shop/cart-0`).
/// A recreated StatefulSet pod keeps it; see [`PodUid`](crate::PodUid) for the incarnation. Ordered as its text is.
///
/// Names of pods of one owner differ in a few characters at their end. These are held here and all before them is shared, so
/// that a name takes sixteen bytes, here and in the endpoints that repeat it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WorkloadName {
    /// All but the tail.
    stem: Text,
    /// What follows the last `-` or `/`, filled up with zeroes; none where that is longer or has a zero in it.
    tail: [u8; TAIL],
}

/// Kubernetes makes pods' names unique by five characters; a StatefulSet's ordinals have fewer.
const TAIL: usize = 8;

impl WorkloadName {
    /// The name of a pod's workload.
    pub fn pod(cluster: &str, namespace: &str, name: &str) -> Self {
        Self::from_wire(format!("{cluster}//Pod/{namespace}/{name}"))
    }

    /// Takes a name as another control plane wrote it.
    pub fn from_wire(name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        let (stem, last) = name.split_at(name.rfind(['-', '/']).map_or(0, |end| end + 1));
        let mut tail = [0; TAIL];
        match tail.get_mut(..last.len()) {
            Some(place) if !last.contains('\0') => {
                place.copy_from_slice(last.as_bytes());
                Self { stem: stem.into(), tail }
            }
            _ => Self { stem: name.into(), tail },
        }
    }

    /// What comes before the first `/`.
    pub fn cluster(&self) -> &str {
        let first = if self.stem.is_empty() { self.tail() } else { &self.stem };
        first.split('/').next().unwrap_or_default()
    }

    /// What comes after the last `/`: for a pod, its own name.
    pub fn name(&self) -> PodName<'_> {
        let start = self.stem.rfind('/').map_or(0, |slash| slash + 1);
        PodName { stem: &self.stem[start..], tail: self.tail() }
    }

    pub(crate) fn share(&mut self, mut shared: impl FnMut(&mut Text)) {
        shared(&mut self.stem);
    }

    fn tail(&self) -> &str {
        let end = self.tail.iter().position(|byte| *byte == 0).unwrap_or(TAIL);
        std::str::from_utf8(&self.tail[..end]).unwrap_or_default()
    }

    fn whole(&self) -> PodName<'_> {
        PodName { stem: &self.stem, tail: self.tail() }
    }
}

impl Ord for WorkloadName {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.stem == other.stem {
            true => self.tail.cmp(&other.tail),
            false => self.whole().cmp(&other.whole()),
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
        self.whole().fmt(f)
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
        assert!(pod.cluster() == "Kubernetes" && pod.name() == "cart-0");
        let odd = WorkloadName::pod("c", "a", "b/c");
        assert_eq!(odd, WorkloadName::from_wire("c//Pod/a/b/c"));
        let long = "Kubernetes//Pod/shop/cart-123456789";
        for text in
            ["", "/", "a", "a/", "/a", "-", "a-", "a\0", "cart-1234567é", long, "Kubernetes//Pod/shop/cart-0"]
        {
            let name = WorkloadName::from_wire(text);
            assert_eq!(name.to_string(), text);
            assert_eq!(name.cluster(), text.split('/').next().unwrap());
            assert_eq!(name.name().to_string(), text.rsplit('/').next().unwrap());
        }
    }

    #[test]
    fn the_names_of_one_owners_pods_share_all_but_their_ends() {
        let names =
            ["web-5d8f9c7-x7k2p", "web-5d8f9c7-aaaaa"].map(|name| WorkloadName::pod("c", "shop", name));
        assert!(names[0] != names[1] && names[0].stem == names[1].stem);
        assert_eq!(size_of::<Option<WorkloadName>>(), 16);
    }

    #[test]
    fn workload_names_stand_in_the_order_of_their_texts() {
        // `-` and `.` stand before `/`, letters behind it.
        let texts = [
            "",
            "/",
            "a",
            "a/",
            "a/b",
            "a-b/",
            "a-b/a",
            "a-",
            "a-b",
            "a-b-c",
            "a-123456789",
            "a.b/c",
            "ab/c",
            "a//b",
        ];
        for (a, b) in texts.iter().flat_map(|a| texts.map(|b| (*a, b))) {
            assert_eq!(WorkloadName::from_wire(a).cmp(&WorkloadName::from_wire(b)), a.cmp(b), "{a} {b}");
        }
    }
}
