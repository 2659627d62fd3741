//! Which records are shown.

use serde_json::{Map, Value};

use crate::cli::{FlowsFlags, VerdictFlag};

/// What the user wants to see; what is not asked for is not looked at.
#[derive(Debug, Default)]
pub(super) struct Filter {
    namespace: Option<String>,
    pod: Option<String>,
    peer: Option<String>,
    verdict: Option<VerdictFlag>,
}

/// The two ends of a connection, as records name them.
const ENDS: [&str; 2] = ["source", "destination"];

impl Filter {
    pub(super) fn of(flags: &FlowsFlags) -> Self {
        Self {
            namespace: flags.namespace.clone(),
            pod: flags.pod.clone(),
            peer: flags.peer.clone(),
            verdict: flags.verdict,
        }
    }

    /// Whether a record is to be shown. That records were dropped is always shown.
    pub(super) fn takes(&self, record: &Map<String, Value>) -> bool {
        if record.contains_key("dropped") {
            return true;
        }
        let get = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let in_namespace = |end: &str| {
            self.namespace.as_ref().is_none_or(|wanted| get(&format!("{end}_namespace")) == wanted)
        };
        // A pod is meant in the namespace that was named, a peer in any.
        let is = |end: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| names(record, end).iter().any(|name| name == wanted))
        };
        let verdict = self.verdict.is_none_or(|wanted| get("verdict") == wanted.as_str());
        let ends = [ENDS, [ENDS[1], ENDS[0]]];
        verdict
            && ends
                .iter()
                .any(|[here, there]| in_namespace(here) && is(here, &self.pod) && is(there, &self.peer))
    }
}

/// All that an end of a connection may be called: its pod with and without namespace, its workload, its identity, its address with
/// and without port.
fn names(record: &Map<String, Value>, end: &str) -> Vec<String> {
    let get = |name: &str| record.get(&format!("{end}_{name}")).and_then(Value::as_str).unwrap_or_default();
    let address = get("address");
    let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip.trim_matches(['[', ']']));
    let mut names = vec![get("pod").to_owned(), format!("{}/{}", get("namespace"), get("pod"))];
    names.extend([get("workload"), get("identity"), address, ip].map(str::to_owned));
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn takes(filter: &Filter) -> bool {
        let record = json!({
            "verdict": "allowed",
            "source_namespace": "shop", "source_pod": "web-1", "source_workload": "web", "source_address": "10.0.0.1:40000",
            "source_identity": "spiffe://cluster.local/ns/shop/sa/web",
            "destination_namespace": "bank", "destination_pod": "pay-2", "destination_address": "[fd00::2]:8080",
        });
        filter.takes(record.as_object().unwrap())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn an_end_can_be_named_in_each_of_its_ways() {
        assert!(takes(&Filter::default()));
        let ways = [
            "web-1",
            "shop/web-1",
            "web",
            "spiffe://cluster.local/ns/shop/sa/web",
            "10.0.0.1",
            "pay-2",
            "fd00::2",
        ];
        for way in ways {
            assert!(takes(&Filter { pod: some(way), ..Filter::default() }), "{way}");
            assert!(takes(&Filter { peer: some(way), ..Filter::default() }), "{way}");
        }
        assert!(!takes(&Filter { pod: some("web-2"), ..Filter::default() }));
    }

    #[test]
    fn pod_and_peer_are_different_ends() {
        let both =
            |pod: &str, peer: &str| takes(&Filter { pod: some(pod), peer: some(peer), ..Filter::default() });
        assert!(both("web-1", "pay-2") && both("pay-2", "web-1"));
        assert!(!both("web-1", "web-1"));
    }

    #[test]
    fn a_namespace_is_the_pods_own() {
        let in_namespace = |namespace: &str, pod: Option<String>| {
            takes(&Filter { namespace: some(namespace), pod, ..Filter::default() })
        };
        assert!(in_namespace("shop", None) && in_namespace("bank", None) && !in_namespace("other", None));
        assert!(in_namespace("shop", some("web-1")) && !in_namespace("bank", some("web-1")));
    }

    #[test]
    fn a_verdict_is_one_of_three() {
        assert!(takes(&Filter { verdict: Some(VerdictFlag::Allowed), ..Filter::default() }));
        assert!(!takes(&Filter { verdict: Some(VerdictFlag::Denied), ..Filter::default() }));
        let dropped = json!({ "dropped": 1 });
        let filter = Filter { verdict: Some(VerdictFlag::Denied), ..Filter::default() };
        assert!(filter.takes(dropped.as_object().unwrap()));
    }
}
