//! The node proxies: one on each node, answering, of one version, with a right clock.

use std::collections::{BTreeMap, BTreeSet};

use aquifer_k8s::{Node, Pod, names};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;

use super::controllers::{trouble, unknown};
use super::facts::Facts;
use super::{CLUSTER, Finding, NETWORK, some};
use crate::cluster::{name_of, node_of};
use crate::upgrade::tag;

/// Clocks of one cluster differ by less; what is measured has an error of a second or two.
const SKEWED: SignedDuration = SignedDuration::from_secs(10);

/// Certificates begin this long before they are signed, so that a clock may be so much behind.
const BROKEN: SignedDuration = SignedDuration::from_secs(110);

/// A node whose proxy is ready for longer should have lost its taint: the controller takes up to a minute where the proxy's pod is older than
/// its Node, and else a second.
const OPENED: SignedDuration = SignedDuration::from_secs(90);

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let members = match &facts.proxies {
        Ok(members) => members,
        Err(error) => return vec![unknown("node-proxies", "the node proxies", error)],
    };
    let mut findings = vec![coverage(facts)];
    findings.extend(taints(facts));
    let silent: Vec<String> = Facts::silent(members)
        .map(|(pod, why)| format!("{} on {} ({why})", name_of(pod), node_of(pod)))
        .collect();
    findings.push(answers(&silent));
    findings.push(versions(facts));
    findings.extend(clocks(facts));
    findings.extend(faults(facts));
    findings
}

/// Each node that runs pods has a proxy, and it is ready.
fn coverage(facts: &Facts) -> Finding {
    const CHECK: &str = "node-proxies";
    let nodes = match &facts.nodes {
        Ok(nodes) => nodes,
        Err(error) => return unknown(CHECK, "the nodes", error),
    };
    let served = facts.served();
    let all: Vec<&str> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
    let proxy = |node: &str| {
        facts.proxies.iter().flatten().map(|member| &member.pod).find(|pod| node_of(pod) == node)
    };
    let why = |node: &&str| match proxy(node) {
        Some(pod) => format!("{node} ({})", trouble(pod)),
        None => format!("{node} (it has none)"),
    };
    let bare: Vec<String> = all.iter().filter(|node| !served.contains(*node)).map(why).collect();
    if bare.is_empty() {
        return Finding::good(CHECK, format!("ready on {} nodes", all.len()));
    }
    let found = format!(
        "no proxy is ready on {}: new connections of pods of the mesh are refused there",
        some(&bare)
    );
    let mend = format!(
        "kubectl -n {} get pods -o wide -l {}={}",
        names::SYSTEM_NAMESPACE,
        names::APPLICATION_LABEL,
        names::NODE
    );
    Finding::error(CHECK, found, mend)
}

/// A taint that stays keeps pods off a node for no reason.
fn taints(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "taints";
    let (Ok(nodes), Ok(Some(deployment))) = (&facts.nodes, &facts.deployment) else { return None };
    let has = |node: &&Node| {
        let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        taints.any(|taint| taint.key == names::NOT_READY_TAINT)
    };
    let tainted: Vec<&str> =
        nodes.iter().filter(has).filter_map(|node| node.metadata.name.as_deref()).collect();
    if !untaints(deployment) {
        return (!tainted.is_empty()).then(|| {
            let names: Vec<String> = tainted.iter().map(ToString::to_string).collect();
            let found = format!(
                "{} has the taint {}, and the mesh was installed without the option to take it off: pods are not put there",
                some(&names),
                names::NOT_READY_TAINT
            );
            let mend = format!(
                "install with the option `--untaint-nodes`, or once the node's proxy is ready: kubectl taint nodes {} {}-",
                tainted[0],
                names::NOT_READY_TAINT
            );
            Finding::warning(CHECK, found, mend)
        });
    }
    let left: Vec<String> = tainted
        .into_iter()
        .filter_map(|node| Some((node, facts.ready_for(node)?)))
        .filter(|(_, ready)| *ready > OPENED)
        .map(|(node, ready)| format!("{node} (its proxy is ready for {} s)", ready.as_secs()))
        .collect();
    if left.is_empty() {
        return Some(Finding::good(CHECK, "no node is kept closed by its taint although its proxy is ready"));
    }
    let found =
        format!("the controller has not taken the taint {} off {}", names::NOT_READY_TAINT, some(&left));
    let mend = format!(
        "its log says why: kubectl -n {} logs -l {}={} --tail=-1 | grep taint",
        names::SYSTEM_NAMESPACE,
        names::APPLICATION_LABEL,
        names::CONTROLLER
    );
    Some(Finding::warning(CHECK, found, mend))
}

/// Whether the controller was installed with the option to take the taint off nodes.
fn untaints(deployment: &Deployment) -> bool {
    let pod = deployment.spec.iter().filter_map(|spec| spec.template.spec.as_ref());
    let mut variables =
        pod.flat_map(|pod| &pod.containers).flat_map(|container| container.env.iter().flatten());
    variables
        .any(|variable| variable.name == "AQUIFER_UNTAINT_NODES" && variable.value.as_deref() == Some("true"))
}

fn answers(silent: &[String]) -> Finding {
    const CHECK: &str = "admin-pages";
    if silent.is_empty() {
        return Finding::good(CHECK, "every node proxy answers");
    }
    let mend = format!(
        "is the node cut off (kubectl get nodes), of another version, or may this user not forward ports? kubectl -n {} logs POD",
        names::SYSTEM_NAMESPACE
    );
    Finding::error(CHECK, format!("no answer from {}", some(silent)), mend).of(CLUSTER)
}

/// The image of the one container of a pod of the mesh.
pub(super) fn image(pod: &Pod) -> &str {
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.find_map(|container| container.image.as_deref()).unwrap_or_default()
}

/// All pods of the mesh run one image, and it is of this program's version.
fn versions(facts: &Facts) -> Finding {
    const CHECK: &str = "versions";
    let mut images: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut contents: BTreeSet<&str> = BTreeSet::new();
    for member in facts.proxies.iter().flatten().chain(facts.controllers.iter().flatten()) {
        images.entry(image(&member.pod)).or_default().push(name_of(&member.pod));
        let statuses = member.pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        contents.extend(statuses.map(|status| status.image_id.as_str()).filter(|id| !id.is_empty()));
    }
    let own = env!("CARGO_PKG_VERSION");
    let upgrade = "finish the upgrade with the program of the version that you want: aquifer upgrade | kubectl apply -f -";
    if images.is_empty() {
        return Finding::warning(CHECK, "no pod of the mesh runs", "aquifer install | kubectl apply -f -");
    }
    if images.len() > 1 {
        let few = images.values().map(Vec::len).min().unwrap_or_default();
        let each: Vec<String> = images
            .iter()
            .map(|(image, pods)| match pods.len() == few {
                true => format!("{image} ({})", pods.join(", ")),
                false => format!("{image} ({} pods)", pods.len()),
            })
            .collect();
        return Finding::warning(CHECK, format!("several versions run: {}", some(&each)), upgrade);
    }
    let image = images.keys().next().copied().unwrap_or_default();
    if tag(image) != own {
        return Finding::warning(CHECK, format!("the mesh runs {image}, this program is {own}"), upgrade);
    }
    if contents.len() > 1 {
        let found = format!("the image {image} has not the same content everywhere: its tag was moved");
        let mend = format!(
            "give each build a tag of its own, or restart all: kubectl -n {0} rollout restart deployment/{1} daemonset/{2}",
            names::SYSTEM_NAMESPACE,
            names::CONTROLLER,
            names::NODE
        );
        return Finding::warning(CHECK, found, mend);
    }
    Finding::good(CHECK, format!("all pods of the mesh are of {own}, as this program"))
}

/// Certificates have a first and a last moment, so clocks must agree.
fn clocks(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "clocks";
    let members = facts.answers(&facts.proxies).chain(facts.answers(&facts.controllers));
    let all: Vec<(&str, SignedDuration)> =
        members.filter_map(|(pod, pages)| Some((node_of(pod), pages.ahead?))).collect();
    if all.is_empty() {
        return None;
    }
    let wrong: BTreeMap<&str, SignedDuration> =
        all.iter().filter(|(_, ahead)| ahead.abs() > SKEWED).copied().collect();
    if wrong.is_empty() {
        return Some(Finding::good(CHECK, "all nodes have the API server's time"));
    }
    let each: Vec<String> = wrong
        .iter()
        .map(|(node, ahead)| {
            format!(
                "{node} is {} s {}",
                ahead.abs().as_secs(),
                if ahead.is_positive() { "ahead" } else { "behind" }
            )
        })
        .collect();
    let found = format!("wrong clock, against the API server's: {}", some(&each));
    let first = wrong.keys().next().copied().unwrap_or_default();
    let mend = format!(
        "make time synchronisation work on {first} (on the node: chronyc makestep, or timedatectl set-ntp true)"
    );
    let broken = wrong.values().any(|ahead| ahead.abs() > BROKEN);
    Some(
        match broken {
            true => Finding::error(
                CHECK,
                format!("{found}; new certificates are not valid yet, or no more, by that clock"),
                mend,
            ),
            false => Finding::warning(CHECK, found, mend),
        }
        .of(CLUSTER),
    )
}

/// What node proxies find wrong themselves: rules in a pod, the CNI configuration of the node, a mesh of before they started.
fn faults(facts: &Facts) -> Vec<Finding> {
    let mut by_code: BTreeMap<&str, Vec<(String, &str)>> = BTreeMap::new();
    let (mut relaid, mut replugged) = (Vec::new(), Vec::new());
    for (pod, pages) in facts.answers(&facts.proxies) {
        for fault in &pages.faults {
            let each = format!("{} on {}: {}", fault.about, node_of(pod), fault.found);
            by_code.entry(&fault.code).or_default().push((each, &fault.mend));
        }
        let times = |count| format!("{} ({count} times)", node_of(pod));
        relaid.extend((pages.repairs > 0).then(|| times(pages.repairs)));
        replugged.extend((pages.plugin_repairs > 0).then(|| times(pages.plugin_repairs)));
    }
    let mut findings: Vec<Finding> = by_code
        .into_iter()
        .map(|(code, all)| {
            let mend = all.first().map_or("", |(_, mend)| mend).to_owned();
            let each: Vec<String> = all.into_iter().map(|(each, _)| each).collect();
            match known(code) {
                CACHE => Finding::warning(CACHE, some(&each), mend).of(NETWORK),
                check => Finding::error(check, some(&each), mend).of(INTRUDER),
            }
        })
        .collect();
    let wrong = |findings: &[Finding], check| findings.iter().any(|finding| finding.check == check);
    if !wrong(&findings, PLUGIN) && !replugged.is_empty() {
        let found = format!(
            "somebody took the CNI plug-in out of the container runtime's configuration, and it was put back, on {}: pods that \
             began in between were captured a moment late",
            some(&replugged)
        );
        let mend = "find out what else writes /etc/cni/net.d on these nodes, as another mesh's or network's agent does, and when";
        findings.push(Finding::warning(PLUGIN, found, mend).of(INTRUDER));
    }
    if wrong(&findings, RULES) {
        return findings;
    }
    if !relaid.is_empty() {
        let found =
            format!("somebody changed packet rules in pods, and they were laid again, on {}", some(&relaid));
        let mend = format!(
            "find out who: kubectl -n {} logs -l {}={} | grep 'laid again' names the pods; another mesh, a CNI plug-in or a firewall agent",
            names::SYSTEM_NAMESPACE,
            names::APPLICATION_LABEL,
            names::NODE
        );
        findings.push(Finding::warning(RULES, found, mend).of(INTRUDER));
    } else if facts.answers(&facts.proxies).next().is_some() {
        findings.push(Finding::good(RULES, "packet rules stand as laid in every pod of the mesh"));
    }
    findings
}

/// Whose faults are that node proxies repair.
const INTRUDER: &str = "something else that changes the nodes";

/// The CNI plug-in in its place.
const PLUGIN: &str = "cni";

/// A mesh that a node kept, and serves since nobody tells it another.
const CACHE: &str = "cache";

/// Packet rules in pods.
const RULES: &str = "rules";

/// Codes of nodes' own faults that this version knows; others come from a newer node.
fn known(code: &str) -> &'static str {
    match code {
        RULES => RULES,
        PLUGIN => PLUGIN,
        CACHE => CACHE,
        _ => "node-problems",
    }
}
