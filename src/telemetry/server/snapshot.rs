//! The mesh as a process knows it, for its admin page: alike in every role, so that two processes can be compared.

use aquifer_model::Snapshot;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Objects of each list.
const LINES: usize = 10_000;

/// What a snapshot holds, or what it holds of one namespace; of each kind the first 10,000. `counts` says how many there are.
pub fn snapshot_page(mesh: &Snapshot, namespace: Option<&str>) -> Value {
    let wanted = |of: &str| namespace.is_none_or(|namespace| namespace == of);
    let mut page = Page::default();
    page.list("workloads", mesh.workloads().filter(|workload| wanted(workload.namespace())));
    page.list("services", mesh.services().filter(|service| wanted(&service.name.namespace)));
    page.list("endpointSlices", mesh.endpoint_slices().filter(|slice| wanted(&slice.name.namespace)));
    page.list("policies", mesh.policies().filter(|policy| wanted(&policy.name.namespace)));
    page.list("peerAuthentications", mesh.peer_authentications().filter(|peer| wanted(&peer.name.namespace)));
    if namespace.is_none() {
        page.list("nodes", mesh.nodes());
        page.list("duplicateAddresses", mesh.duplicate_addresses());
    }
    let Page { mut lists, counts } = page;
    lists.insert("version".to_owned(), mesh.version().into());
    lists.insert("counts".to_owned(), counts.into());
    Value::Object(lists)
}

#[derive(Default)]
struct Page {
    lists: Map<String, Value>,
    counts: Map<String, Value>,
}

impl Page {
    fn list(&mut self, kind: &str, objects: impl Iterator<Item = impl Serialize>) {
        let mut count = 0_usize;
        let mut list = Vec::new();
        for object in objects {
            count += 1;
            if list.len() < LINES {
                list.push(json!(object));
            }
        }
        self.counts.insert(kind.to_owned(), count.into());
        self.lists.insert(kind.to_owned(), list.into());
    }
}

#[cfg(test)]
mod tests {
    use aquifer_model::{Mesh, MeshConfig, Node, Update};

    use super::*;
    use crate::testing::service;

    #[test]
    fn one_namespace_is_shown_alone() {
        let mut mesh = Mesh::new(MeshConfig { root_namespace: "system".into(), networks: None });
        let node = Node { name: "n1".into(), region: "".into(), zone: "".into(), pod_cidrs: Vec::new() };
        mesh.apply([
            Update::Service(service("shop", "web")),
            Update::Service(service("shop", "cart")),
            Update::Service(service("bank", "web")),
            Update::Node(node.into()),
        ]);
        let (all, shop) =
            (snapshot_page(&mesh.snapshot(), None), snapshot_page(&mesh.snapshot(), Some("shop")));
        assert_eq!((&all["counts"]["services"], &all["counts"]["nodes"]), (&json!(3), &json!(1)));
        assert_eq!((&shop["counts"]["services"], &shop["counts"]["nodes"]), (&json!(2), &Value::Null));
        assert_eq!(shop["services"].as_array().map(Vec::len), Some(2));
        assert_eq!(all["version"], shop["version"]);
    }
}
