//! What became of a call of the probe, by the caller and by the records of both nodes.

use serde_json::{Map, Value};

use super::super::{Finding, NETWORK};
use super::CHECK;
use super::stage::Actor;

/// Where a call does not get to port 15008.
const BLOCKED: &str = "port-15008";

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) from: Actor,
    pub(super) to: Actor,
    /// What the caller saw: the milliseconds, or why not.
    pub(super) outcome: Result<f64, String>,
    /// The record of the caller's node.
    pub(super) outbound: Option<Map<String, Value>>,
    /// The record of the called pod's node.
    pub(super) inbound: Option<Map<String, Value>>,
}

impl Call {
    /// Takes a record where it is of this call.
    pub(super) fn hear(&mut self, node: &str, record: &Map<String, Value>) {
        let is = |field: &str, value: &str| record.get(field).and_then(Value::as_str) == Some(value);
        let address = self.to.address.to_string();
        let called = is("destination_address", &address) || is("original_destination", &address);
        if !is("source_pod", &self.from.pod) || !called {
            return;
        }
        if is("direction", "outbound") && node == self.from.node {
            self.outbound = Some(record.clone());
        } else if is("direction", "inbound") && node == self.to.node {
            self.inbound = Some(record.clone());
        }
    }

    /// Whether all was told that can be: a call that failed on its way may be unknown at its end.
    pub(super) fn told(&self) -> bool {
        self.outbound.is_some() && (self.inbound.is_some() || self.outcome.is_err())
    }
}

pub(super) fn judge(call: &Call) -> Finding {
    let way = format!("{} → {}", call.from.node, call.to.node);
    match &call.outcome {
        Ok(milliseconds) => carried(call, &way, *milliseconds),
        Err(seen) => failed(call, &way, seen),
    }
}

/// The caller was answered: then both ends must say so, and that it was in the mesh.
fn carried(call: &Call, way: &str, milliseconds: f64) -> Finding {
    let [Some(outbound), Some(inbound)] = [&call.outbound, &call.inbound] else {
        let silent = if call.outbound.is_none() { &call.from.node } else { &call.to.node };
        let found = format!(
            "{way}: the call was answered, and the proxy of {silent} has no record of it: it passed by the mesh, or records are switched off"
        );
        let mend = format!("aquifer logs level info --node {silent}; then see `rules` and `enrolment`");
        return Finding::error(CHECK, found, mend);
    };
    let text = |record: &Map<String, Value>, field: &str| {
        record.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (path, identity) = (text(outbound, "path"), text(inbound, "source_identity"));
    if path == "plaintext" || path == "passthrough" || identity.is_empty() {
        let found = format!("{way}: the call was answered, and went by {path} without a proved identity");
        return Finding::error(
            CHECK,
            found,
            format!("aquifer config -n NAMESPACE POD, of a pod on {}", call.from.node),
        );
    }
    for field in ["source_identity", "destination_identity"] {
        let (here, there) = (text(outbound, field), text(inbound, field));
        if here != there {
            let found = format!(
                "{way}: both ends do not agree who it was: {field} is {here:?} at the caller's node and {there:?} at the other"
            );
            return Finding::error(
                CHECK,
                found,
                "please report this, with both records of `aquifer flows -o json`",
            );
        }
    }
    let tls = if outbound.get("tls") == Some(&Value::Bool(true)) { " with mutual TLS" } else { "" };
    Finding::good(CHECK, format!("{way} by {path}{tls}, told alike at both ends, {milliseconds:.1} ms"))
}

/// The caller was not answered; the records say where it ended.
fn failed(call: &Call, way: &str, seen: &str) -> Finding {
    let Some(record) = call.outbound.as_ref().or(call.inbound.as_ref()) else {
        let found = format!("{way}: no call ({seen}), and no record of it");
        return Finding::error(
            CHECK,
            found,
            format!("aquifer flows; kubectl logs of the node proxy of {}", call.from.node),
        );
    };
    let text = |field: &str| record.get(field).and_then(Value::as_str).unwrap_or_default();
    let (reason, error, advice) = (text("reason"), text("error"), text("advice"));
    if text("hop") == "dial" && text("path") == "tunnel" {
        let found = format!(
            "{way}: port 15008 of pods on {} is not reached from {} ({reason}: {error})",
            call.to.node, call.from.node
        );
        let mend = format!(
            "let TCP 15008 pass from pods of {} to pods of {}: look at firewalls and security groups of the nodes (on the node: nft list ruleset), and at: kubectl get networkpolicies -A",
            call.from.node, call.to.node
        );
        return Finding::error(BLOCKED, found, mend).of(NETWORK);
    }
    let by = Some(text("policy"))
        .filter(|policy| !policy.is_empty())
        .map(|policy| format!(", decided by {policy}"))
        .unwrap_or_default();
    let found = format!("{way}: {} ({reason}{by}: {error})", text("verdict"));
    let mend = if advice.is_empty() { "see the records of both nodes: aquifer flows" } else { advice };
    Finding::error(CHECK, found, mend)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::Level;

    fn call(outcome: Result<f64, &str>) -> Call {
        let actor = |pod: &str, node: &str, ip: &str| Actor {
            pod: pod.to_owned(),
            node: node.to_owned(),
            address: format!("{ip}:8080").parse().unwrap(),
        };
        Call {
            from: actor("probe-0", "n1", "10.1.0.9"),
            to: actor("probe-1", "n2", "10.2.0.9"),
            outcome: outcome.map_err(str::to_owned),
            outbound: None,
            inbound: None,
        }
    }

    fn record(direction: &str, more: Value) -> Map<String, Value> {
        let mut record = json!({
            "direction": direction, "source_pod": "probe-0", "destination_address": "10.2.0.9:8080", "verdict": "allowed",
            "path": "tunnel", "tls": true, "source_identity": "spiffe://a", "destination_identity": "spiffe://b",
        });
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record.as_object().unwrap().clone()
    }

    #[test]
    fn a_call_that_both_ends_tell_alike_is_good() {
        let mut call = call(Ok(1.25));
        assert!(!call.told());
        call.hear("n1", &record("outbound", json!({})));
        assert!(!call.told());
        call.hear("n1", &record("inbound", json!({})));
        call.hear("n2", &record("inbound", json!({ "source_pod": "another" })));
        assert!(!call.told(), "a record of another node, or of another call, was taken");
        call.hear("n2", &record("inbound", json!({})));
        assert!(call.told());
        let finding = judge(&call);
        assert_eq!((finding.check, finding.level), (CHECK, Level::Good));
        assert!(finding.found.contains("by tunnel with mutual TLS"), "{finding:?}");
    }

    #[test]
    fn a_call_that_passes_by_the_mesh_is_an_error() {
        let mut silent = call(Ok(1.0));
        silent.hear("n1", &record("outbound", json!({})));
        assert_eq!(judge(&silent).level, Level::Error);
        let mut clear = call(Ok(1.0));
        clear.hear("n1", &record("outbound", json!({ "path": "plaintext" })));
        clear.hear("n2", &record("inbound", json!({ "source_identity": null })));
        assert!(judge(&clear).found.contains("plaintext"));
        let mut liar = call(Ok(1.0));
        liar.hear("n1", &record("outbound", json!({})));
        liar.hear("n2", &record("inbound", json!({ "source_identity": "spiffe://c" })));
        assert!(judge(&liar).found.contains("do not agree"));
    }

    #[test]
    fn a_blocked_port_is_named_with_both_nodes() {
        let mut call = call(Err("reset"));
        let more =
            json!({ "verdict": "failed", "hop": "dial", "reason": "connect-timeout", "error": "no answer" });
        call.hear("n1", &record("outbound", more));
        assert!(call.told());
        let finding = judge(&call);
        assert_eq!((finding.check, finding.level), ("port-15008", Level::Error));
        assert!(finding.found.contains("n1 → n2"), "{finding:?}");
        assert!(
            finding
                .mend
                .is_some_and(|mend| mend.contains("let TCP 15008 pass from pods of n1 to pods of n2"))
        );
    }

    #[test]
    fn a_policy_that_denies_the_probe_is_named() {
        let mut call = call(Err("reset"));
        let more = json!({ "verdict": "denied", "hop": "peer", "reason": "deny-policy", "policy": "aquifer-system/all", "error": "x", "advice": "change it" });
        call.hear("n1", &record("outbound", more));
        let finding = judge(&call);
        assert!(finding.found.contains("decided by aquifer-system/all"), "{finding:?}");
        assert_eq!(finding.mend.as_deref(), Some("change it"));
    }
}
