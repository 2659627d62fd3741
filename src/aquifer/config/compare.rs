//! Two pages of a mesh, object by object.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// Characters of a value that are shown.
const SHOWN: usize = 160;

/// Lists of a page, and what one of their objects is called.
const LISTS: [(&str, &str); 6] = [
    ("workloads", "Workload"),
    ("services", "Service"),
    ("endpointSlices", "EndpointSlice"),
    ("policies", "AuthorizationPolicy"),
    ("peerAuthentications", "PeerAuthentication"),
    ("nodes", "Node"),
];

/// How the two sides stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Same,
    Differs,
    /// The node has what the controller does not tell.
    OnlyAtNode,
    /// The node has not what the controller tells.
    MissingAtNode,
}

/// One object, of both sides.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) state: State,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fields: Vec<Field>,
    /// As the side has it that has it; the node's where both have.
    object: Value,
}

/// A field in which the sides differ.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) node: String,
    pub(super) controller: String,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "same",
            Self::Differs => "DIFFERS",
            Self::OnlyAtNode => "ONLY AT THE NODE",
            Self::MissingAtNode => "MISSING AT THE NODE",
        })
    }
}

/// Everything of two pages, differences first.
pub(super) fn compare(has: &Value, told: &Value) -> Vec<Compared> {
    let mut compared: Vec<Compared> =
        LISTS.iter().flat_map(|(list, kind)| compare_list(list, kind, has, told)).collect();
    compared.sort_by_key(|object| object.state == State::Same);
    compared
}

/// What concerns one pod, of the pages of its namespace and of the root namespace, each of the node and of the controller.
pub(super) fn of_pod(pod: &str, own: [&Value; 2], root: [&Value; 2]) -> Vec<Compared> {
    let workloads = own.map(|page| find(page, "workloads", pod));
    let about = |object: &Compared| match object.kind.as_str() {
        "Workload" => object.object["pod"]["name"] == pod,
        "Service" => serves(&object.object, own, &workloads),
        "EndpointSlice" => has_endpoint(&object.object, &workloads),
        "AuthorizationPolicy" | "PeerAuthentication" => reaches(&object.object["scope"], own, &workloads),
        _ => false,
    };
    let policies = |object: &Compared| object.kind.ends_with("Policy") || object.kind == "PeerAuthentication";
    let mut compared: Vec<Compared> = compare(own[0], own[1]).into_iter().filter(about).collect();
    let mesh_wide = compare(root[0], root[1]).into_iter().filter(|object| policies(object) && about(object));
    compared.extend(mesh_wide);
    compared
}

fn compare_list(list: &str, kind: &str, has: &Value, told: &Value) -> Vec<Compared> {
    let (has, told) = (by_name(&has[list]), by_name(&told[list]));
    let names: BTreeSet<&String> = has.keys().chain(told.keys()).collect();
    let one = |name: &String| {
        let (state, object, fields) = match (has.get(name), told.get(name)) {
            (Some(has), Some(told)) if has == told => (State::Same, *has, Vec::new()),
            (Some(has), Some(told)) => (State::Differs, *has, fields(has, told)),
            (Some(has), None) => (State::OnlyAtNode, *has, Vec::new()),
            (None, told) => (State::MissingAtNode, *told?, Vec::new()),
        };
        Some(Compared { kind: kind.to_owned(), name: name.clone(), state, fields, object: object.clone() })
    };
    names.into_iter().filter_map(one).collect()
}

fn by_name(list: &Value) -> BTreeMap<String, &Value> {
    list.as_array().into_iter().flatten().map(|object| (name(object), object)).collect()
}

/// `namespace/name`, or the name where there is no namespace.
fn name(object: &Value) -> String {
    let full = |of: &Value| Some(format!("{}/{}", of["namespace"].as_str()?, of["name"].as_str()?));
    full(&object["pod"])
        .or_else(|| full(&object["name"]))
        .unwrap_or_else(|| object["name"].as_str().unwrap_or_default().to_owned())
}

fn fields(has: &Value, told: &Value) -> Vec<Field> {
    let keys: BTreeSet<&String> =
        [has, told].into_iter().filter_map(Value::as_object).flat_map(|object| object.keys()).collect();
    let differing = keys.into_iter().filter(|key| has[key.as_str()] != told[key.as_str()]);
    differing
        .map(|key| Field { name: key.clone(), node: short(&has[key]), controller: short(&told[key]) })
        .collect()
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn find<'a>(page: &'a Value, list: &str, pod: &str) -> &'a Value {
    page[list]
        .as_array()
        .into_iter()
        .flatten()
        .find(|object| object["pod"]["name"] == pod)
        .unwrap_or(&Value::Null)
}

/// Whether on either side the workload carries all labels, and there are any.
fn selected(labels: &Value, workloads: &[&Value; 2]) -> bool {
    let wanted = labels.as_array().map(Vec::as_slice).unwrap_or_default();
    let carries = |workload: &Value| {
        let own = workload["labels"].as_array().map(Vec::as_slice).unwrap_or_default();
        !own.is_empty() && wanted.iter().all(|label| own.contains(label))
    };
    !wanted.is_empty() && workloads.iter().any(|workload| carries(workload))
}

fn has_endpoint(slice: &Value, workloads: &[&Value; 2]) -> bool {
    let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints.any(|endpoint| {
        !endpoint["workload"].is_null()
            && workloads.iter().any(|workload| workload["name"] == endpoint["workload"])
    })
}

fn serves(service: &Value, own: [&Value; 2], workloads: &[&Value; 2]) -> bool {
    let slices = own.into_iter().flat_map(|page| page["endpointSlices"].as_array().into_iter().flatten());
    let mut slices = slices.filter(|slice| slice["service"] == service["name"]);
    selected(&service["selector"], workloads) || slices.any(|slice| has_endpoint(slice, workloads))
}

fn reaches(scope: &Value, own: [&Value; 2], workloads: &[&Value; 2]) -> bool {
    if scope == "Mesh" || scope == "Namespace" || selected(&scope["Selector"], workloads) {
        return true;
    }
    let named = scope["Services"].as_array().into_iter().flatten();
    let mut services = named.flat_map(|name| {
        let all = own.into_iter().flat_map(|page| page["services"].as_array().into_iter().flatten());
        all.filter(move |service| service["name"] == *name)
    });
    services.any(|service| serves(service, own, workloads))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(action: &str, revision: &str) -> Value {
        let name = |name: &str| json!({ "namespace": "shop", "name": name });
        json!({
            "workloads": [
                { "name": "c//Pod/shop/web-0", "pod": name("web-0"), "labels": [["app", "web"], ["v", revision]] },
                { "name": "c//Pod/shop/cart-0", "pod": name("cart-0"), "labels": [["app", "cart"]] },
            ],
            "services": [{ "name": name("web"), "selector": [["app", "web"]] }, { "name": name("cart"), "selector": [["app", "cart"]] }],
            "endpointSlices": [{ "name": name("web-1"), "service": name("web"), "endpoints": [{ "workload": "c//Pod/shop/web-0" }] }],
            "policies": [
                { "name": name("all"), "scope": "Namespace", "action": action },
                { "name": name("cart"), "scope": { "Selector": [["app", "cart"]] }, "action": "Deny" },
                { "name": name("web"), "scope": { "Services": [name("web")] }, "action": "Allow" },
            ],
        })
    }

    fn found(compared: &[Compared]) -> Vec<(&str, &str, State)> {
        compared.iter().map(|object| (object.kind.as_str(), object.name.as_str(), object.state)).collect()
    }

    #[test]
    fn what_differs_comes_first_with_its_fields() {
        let compared = compare(&page("Deny", "1"), &page("Allow", "1"));
        assert_eq!(found(&compared)[0], ("AuthorizationPolicy", "shop/all", State::Differs));
        let field = Field { name: "action".into(), node: "\"Deny\"".into(), controller: "\"Allow\"".into() };
        assert_eq!(compared[0].fields, [field]);
        assert!(compared[1..].iter().all(|object| object.state == State::Same));
    }

    #[test]
    fn what_one_side_lacks_is_told() {
        let mut told = page("Deny", "1");
        told["services"].as_array_mut().unwrap().pop();
        let mut has = page("Deny", "1");
        has["policies"].as_array_mut().unwrap().pop();
        let compared = compare(&has, &told);
        let expected = [
            ("Service", "shop/cart", State::OnlyAtNode),
            ("AuthorizationPolicy", "shop/web", State::MissingAtNode),
        ];
        assert_eq!(found(&compared)[..2], expected);
    }

    #[test]
    fn of_a_pod_only_what_concerns_it_is_shown() {
        let root =
            json!({ "policies": [{ "name": { "namespace": "system", "name": "mesh" }, "scope": "Mesh" }] });
        let (has, told) = (page("Deny", "1"), page("Deny", "2"));
        let compared = of_pod("web-0", [&has, &told], [&root, &Value::Null]);
        let expected = [
            ("Workload", "shop/web-0", State::Differs),
            ("Service", "shop/web", State::Same),
            ("EndpointSlice", "shop/web-1", State::Same),
            ("AuthorizationPolicy", "shop/all", State::Same),
            ("AuthorizationPolicy", "shop/web", State::Same),
            ("AuthorizationPolicy", "system/mesh", State::OnlyAtNode),
        ];
        assert_eq!(found(&compared), expected);
    }
}
