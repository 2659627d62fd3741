//! The pods of the mesh: whoever should be in it is.

use std::collections::BTreeMap;

use super::controllers::unknown;
use super::facts::{Enrolled, Facts};
use super::{Finding, some};

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "enrolment";
    let live = match &facts.mesh {
        Ok(live) => live,
        Err(error) => return vec![unknown(CHECK, "what the mesh is made of", error)],
    };
    let known: BTreeMap<&str, &Enrolled> = facts
        .answers(&facts.proxies)
        .flat_map(|(_, pages)| &pages.enrolments)
        .map(|pod| (pod.uid.as_str(), pod))
        .collect();
    let desired = live.mesh.workloads().filter(|pod| {
        pod.in_mesh() && !pod.terminating() && !pod.node().is_empty() && !pod.addresses().is_empty()
    });
    let (mut count, mut outside) = (0_usize, Vec::new());
    for workload in desired {
        count += 1;
        match workload.uid().with_str(|uid| known.get(uid).copied()) {
            Some(pod) if pod.ready => {}
            Some(pod) => outside.push(format!("{} ({})", workload.pod(), pod.why)),
            None => outside.push(format!("{} (node {} does not know it)", workload.pod(), workload.node())),
        }
    }
    if outside.is_empty() {
        return vec![Finding::good(CHECK, format!("{count} pods are in the mesh, as their labels say"))];
    }
    outside.sort_unstable();
    let found = format!(
        "{} of {count} pods are not in the mesh, though their labels say so: {}",
        outside.len(),
        some(&outside)
    );
    let mend = "the reason in parentheses says what is missing, and the node tries again by itself; a node that does not know a pod is named by `discovery` or `node-proxies`";
    vec![Finding::error(CHECK, found, mend)]
}
