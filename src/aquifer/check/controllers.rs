//! The controller: it runs, everybody listens to it, and it could read what users wrote.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_k8s::{Pod, names};

use super::facts::{Facts, Listener, is_ready};
use super::{Finding, some};
use crate::cluster::{name_of, node_of};

/// A refusal that is older was probably mended.
const RECENT_SECONDS: i64 = 600;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![readiness(facts)];
    findings.extend(silence(facts));
    findings.extend(listening(facts));
    findings.extend(leader(facts));
    findings.extend(refusals(facts));
    findings.extend(source(facts));
    findings
}

fn readiness(facts: &Facts) -> Finding {
    const CHECK: &str = "controller";
    let deployment = match &facts.deployment {
        Ok(Some(deployment)) => deployment,
        Ok(None) => {
            return Finding::error(
                CHECK,
                "the mesh is not installed",
                "aquifer install | kubectl apply -f -",
            );
        }
        Err(error) => return unknown(CHECK, "the controller's Deployment", error),
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let mut found = format!("{ready} of {wanted} replicas are ready");
    if ready >= wanted && wanted > 0 {
        return Finding::good(CHECK, found);
    }
    let system = names::SYSTEM_NAMESPACE;
    if wanted == 0 {
        found.push_str(": it is scaled to none; what runs goes on, and nothing new is known or signed");
        let mend = format!("kubectl -n {system} scale deployment/{} --replicas=2", names::CONTROLLER);
        return Finding::error(CHECK, found, mend);
    }
    let pods = facts.controllers.iter().flatten().map(|member| &member.pod);
    let why: Vec<String> =
        pods.filter(|pod| !is_ready(pod)).map(|pod| format!("{}: {}", name_of(pod), trouble(pod))).collect();
    if !why.is_empty() {
        found = format!("{found} ({})", some(&why));
    }
    let mend = format!(
        "kubectl -n {system} describe deployment/{0}; kubectl -n {system} logs deployment/{0}",
        names::CONTROLLER
    );
    match ready {
        0 => Finding::error(CHECK, found, mend),
        _ => Finding::warning(CHECK, found, mend),
    }
}

/// Why a pod is not ready, in kubelet's words.
pub(super) fn trouble(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "it has no status yet".to_owned() };
    for container in status.container_statuses.iter().flatten() {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        if let Some(reason) = waiting.and_then(|waiting| waiting.reason.as_ref()) {
            return match waiting.and_then(|waiting| waiting.message.as_ref()) {
                Some(message) => format!("{reason}: {message}"),
                None => reason.clone(),
            };
        }
    }
    let conditions = status.conditions.iter().flatten();
    let wrong = conditions.into_iter().find(|condition| condition.status == "False");
    match wrong {
        Some(wrong) => wrong
            .message
            .clone()
            .or_else(|| wrong.reason.clone())
            .unwrap_or_else(|| format!("not {}", wrong.type_)),
        None => status.phase.clone().unwrap_or_else(|| "it waits".to_owned()),
    }
}

/// Controllers that are ready and do not answer.
fn silence(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "controller-pages";
    let members = match &facts.controllers {
        Ok(members) => members,
        Err(error) => return Some(unknown(CHECK, "the controller's pods", error)),
    };
    let silent: Vec<String> =
        Facts::silent(members).map(|(pod, why)| format!("{} ({why})", name_of(pod))).collect();
    (!silent.is_empty()).then(|| {
        let mend = "check as a user who may forward ports to pods of aquifer-system; kubectl -n aquifer-system logs POD";
        Finding::error(CHECK, format!("no answer from {}", some(&silent)), mend)
    })
}

/// Each node proxy hears what changes, and has it.
fn listening(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "discovery";
    let mut listeners: BTreeMap<&str, u64> = BTreeMap::new();
    let mut heard = false;
    for (_, pages) in facts.answers(&facts.controllers) {
        heard = true;
        for listener in &pages.discovery.listeners {
            let Some(node) = node_name(listener) else { continue };
            // One that comes anew is listed twice for a moment; the newer has more.
            let behind = listeners.entry(node).or_insert(listener.behind);
            *behind = (*behind).min(listener.behind);
        }
    }
    if !heard {
        return None;
    }
    let proxies: Vec<&Pod> = facts.proxies.iter().flatten().map(|member| &member.pod).collect();
    let deaf: Vec<String> = proxies
        .iter()
        .map(|pod| node_of(pod))
        .filter(|node| !listeners.contains_key(node))
        .map(str::to_owned)
        .collect();
    if !deaf.is_empty() {
        let found = format!(
            "the proxy of {} listens to no controller: it goes on with what it knew last, and policies and pods of since then are not known there",
            some(&deaf)
        );
        let mend = format!(
            "let its pod reach Service {} (TCP 15012): kubectl get node {}; kubectl -n {} logs -l {}={} --field-selector spec.nodeName={}",
            names::CONTROLLER,
            deaf[0],
            names::SYSTEM_NAMESPACE,
            names::APPLICATION_LABEL,
            names::NODE,
            deaf[0]
        );
        return Some(Finding::error(CHECK, found, mend).of(super::NETWORK));
    }
    let behind: Vec<String> = listeners
        .iter()
        .filter(|(_, behind)| **behind > 0)
        .map(|(node, behind)| format!("{node} ({behind} changes)"))
        .collect();
    if !behind.is_empty() {
        let mend = "wait a moment and check again; if it stays, the node or its network is overloaded: kubectl top node";
        return Some(
            Finding::warning(CHECK, format!("behind what the controller told: {}", some(&behind)), mend)
                .of(super::CLUSTER),
        );
    }
    let unhappy: Vec<String> = facts
        .answers(&facts.proxies)
        .filter(|(_, pages)| pages.source_problems > 0)
        .map(|(pod, _)| node_of(pod).to_owned())
        .collect();
    if !unhappy.is_empty() {
        let mend = format!(
            "kubectl -n {} logs -l {}={} | grep -i controller",
            names::SYSTEM_NAMESPACE,
            names::APPLICATION_LABEL,
            names::NODE
        );
        return Some(Finding::warning(
            CHECK,
            format!("{} told of trouble with the controller just now", some(&unhappy)),
            mend,
        ));
    }
    Some(Finding::good(CHECK, format!("{} node proxies have what the controller told last", proxies.len())))
}

/// The Node that a listener says it is of.
fn node_name(listener: &Listener) -> Option<&str> {
    let pod = listener.id.split('~').nth(2)?;
    Some(pod.rsplit_once('.')?.0)
}

/// Statuses of policies are written by one replica; without one they grow old.
fn leader(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "leader";
    let says: Vec<(&str, bool)> = facts
        .answers(&facts.controllers)
        .filter_map(|(pod, pages)| Some((name_of(pod), pages.discovery.leads?)))
        .collect();
    let leaders: Vec<&str> = says.iter().filter(|(_, leads)| *leads).map(|(name, _)| *name).collect();
    if says.is_empty() {
        return None;
    }
    Some(match leaders.first() {
        Some(leader) => Finding::good(CHECK, format!("{leader} writes the statuses of policies")),
        None => Finding::warning(
            CHECK,
            "no replica of the controller leads now, so that statuses of policies are not kept up to date",
            format!("kubectl -n {} get lease {} -o yaml", names::SYSTEM_NAMESPACE, names::CONTROLLER),
        ),
    })
}

fn refusals(facts: &Facts) -> Option<Finding> {
    let rejected = facts.answers(&facts.controllers).flat_map(|(_, pages)| &pages.discovery.rejected);
    let recent = rejected.filter(|rejection| facts.now.as_second() - rejection.at < RECENT_SECONDS);
    let each: Vec<String> = recent.map(|rejection| format!("{} ({})", rejection.id, rejection.why)).collect();
    (!each.is_empty()).then(|| {
        let mend = "nodes and controllers must be of one version: finish the upgrade; if they are, please report this";
        Finding::warning("refused-news", format!("a node could not take what it was told: {}", some(&each)), mend)
    })
}

/// What the controller could not take as its author wrote it.
fn source(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "objects";
    let mut told = facts.answers(&facts.controllers);
    let (_, pages) = told.next()?;
    // What is wrong with a policy is told under its own check.
    let policies: BTreeSet<String> =
        facts.mesh.iter().flat_map(|live| live.policies.keys()).map(ToString::to_string).collect();
    let of_policy = |line: &&String| line.split_once(": ").is_some_and(|(of, _)| policies.contains(of));
    let problems: Vec<&String> = pages.discovery.problems.iter().filter(|line| !of_policy(line)).collect();
    let (errors, rest): (Vec<&String>, Vec<&String>) =
        problems.into_iter().partition(|problem| problem.contains(": error: "));
    let warnings: Vec<&String> = rest.into_iter().filter(|problem| problem.contains(": warning: ")).collect();
    let mend =
        "mend the objects: each line names object and field; a policy that cannot be read denies until then";
    let each: Vec<String> = errors.iter().chain(&warnings).map(|problem| (*problem).clone()).collect();
    Some(match (errors.len(), warnings.len()) {
        (0, 0) => Finding::good(CHECK, "the controller could read all objects as they were meant"),
        (0, _) => Finding::warning(CHECK, some(&each), mend).of("who wrote these objects"),
        _ => Finding::error(CHECK, some(&each), mend).of("who wrote these objects"),
    })
}

/// The API server, or a pod, did not say.
pub(super) fn unknown(check: &'static str, what: &str, error: &str) -> Finding {
    let mend = "check as a user with the right to read the cluster (such as ClusterRole view, and nodes)";
    Finding::error(check, format!("{what} cannot be read: {error}"), mend).of("this user's rights")
}
