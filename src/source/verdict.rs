//! What becomes of a policy: is it taken as written, where is what of it enforced, and which other wins over it. No IO here; the
//! controller writes it into the policy's status, and `aquifer check` shows it.
//!
//! It never flatters: a condition is true where all that the policy says is enforced at all that it selects.

mod peers;

use std::collections::BTreeMap;

use aquifer_k8s::names;
use aquifer_model::{
    Action, AuthorizationPolicy, NamespacedName, PeerAuthentication, PolicyScope, Snapshot, Text, Workload,
};

use crate::object::{ONLY_HTTP, Object};
use crate::{Key, Problem, Severity, Standing, Taken};

/// Whether it is taken as written.
pub const ACCEPTED: &str = "Accepted";
/// Whether all that it says is enforced at all that it selects.
pub const ENFORCED: &str = "Enforced";
/// Whether another of the same scope says something, too; only there where it is so.
pub const CONFLICTED: &str = "Conflicted";
/// All types of conditions that there are.
pub const TYPES: [&str; 3] = [ACCEPTED, ENFORCED, CONFLICTED];

/// Why a condition is as it is: a word for programs, as Kubernetes has it.
pub mod reason {
    /// It is taken as written.
    pub const ACCEPTED: &str = "Accepted";
    /// It cannot be read.
    pub const INVALID: &str = "Invalid";
    /// All of it is enforced.
    pub const ENFORCED: &str = "Enforced";
    /// It is enforced at a part of what it selects.
    pub const PARTLY_ENFORCED: &str = "PartlyEnforced";
    /// It is enforced at all that it selects but at pods that keep themselves outside the mesh by their own label.
    pub const PODS_OPTED_OUT: &str = "PodsOptedOut";
    /// It selects no pod of the mesh.
    pub const SELECTS_NOTHING: &str = "SelectsNothing";
    /// What it is attached to does not exist.
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
    /// It asks for what no node proxy sees.
    pub const NEEDS_WAYPOINT: &str = "NeedsWaypoint";
    /// It asks for what this mesh does not have.
    pub const NOT_SUPPORTED: &str = "NotSupported";
    /// Others decide wherever it says something.
    pub const OVERRIDDEN: &str = "Overridden";
    /// Several of one scope say something.
    pub const SAME_SCOPE: &str = "SameScope";
}

/// Stands in a message between what is so and what to do about it.
const MEND: &str = ". Mend: ";

/// Objects that are named in a message.
const NAMED: usize = 3;

/// Bytes of a message at most; Kubernetes allows 32 KiB, and people read less.
const LONGEST: usize = 2_000;

/// One thing that is so of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which condition it is, one of [`TYPES`].
    pub condition: &'static str,
    /// Whether the condition is true.
    pub holds: bool,
    /// A word of [`reason`].
    pub reason: &'static str,
    /// What is so.
    pub found: String,
    /// What to do about it, where something is to be done.
    pub mend: Option<String>,
}

impl Verdict {
    fn new(condition: &'static str, holds: bool, reason: &'static str, found: impl Into<String>) -> Self {
        Self { condition, holds, reason, found: found.into(), mend: None }
    }

    fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }

    /// For a condition's message. Bounded.
    pub fn message(&self) -> String {
        let mend = self.mend.as_ref().map(|mend| format!("{MEND}{mend}")).unwrap_or_default();
        let mut found = self.found.as_str();
        if found.len() + mend.len() > LONGEST {
            let mut end = LONGEST.saturating_sub(mend.len());
            while !found.is_char_boundary(end) {
                end -= 1;
            }
            found = found.get(..end).unwrap_or_default();
        }
        format!("{found}{mend}")
    }
}

/// A condition's message as what is so, and what to do about it.
pub fn parts(message: &str) -> (&str, Option<&str>) {
    message.split_once(MEND).map_or((message, None), |(found, mend)| (found, Some(mend)))
}

/// A policy in the mesh.
#[derive(Clone, Copy, Debug)]
pub enum Policy<'a> {
    /// Who may call what.
    Authorization(&'a AuthorizationPolicy),
    /// Whether callers need mutual TLS.
    Peer(&'a PeerAuthentication),
}

impl<'a> Policy<'a> {
    /// An object, where it is a policy.
    pub fn of(object: &'a Object) -> Option<Self> {
        match object {
            Object::AuthorizationPolicy(policy) => Some(Self::Authorization(policy)),
            Object::PeerAuthentication(policy) => Some(Self::Peer(policy)),
            _ => None,
        }
    }

    fn name(&self) -> &'a NamespacedName {
        match self {
            Self::Authorization(policy) => &policy.name,
            Self::Peer(policy) => &policy.name,
        }
    }

    /// Whom it is about.
    pub fn scope(&self) -> &'a PolicyScope {
        match self {
            Self::Authorization(policy) => &policy.scope,
            Self::Peer(policy) => &policy.scope,
        }
    }
}

/// A mesh, prepared for questions about many policies.
pub struct Ground<'a> {
    mesh: &'a Snapshot,
    root: &'a str,
    /// Pods that have not ended, by namespace.
    pods: BTreeMap<&'a str, Vec<&'a Workload>>,
    /// By name.
    peers: Vec<&'a PeerAuthentication>,
}

impl<'a> Ground<'a> {
    /// Of a mesh whose root namespace is `root`.
    pub fn new(mesh: &'a Snapshot, root: &'a str) -> Self {
        let mut pods: BTreeMap<&str, Vec<&Workload>> = BTreeMap::new();
        for workload in mesh.workloads().filter(|workload| !workload.finished()) {
            pods.entry(workload.namespace()).or_default().push(workload);
        }
        let mut peers: Vec<&PeerAuthentication> = mesh.peer_authentications().map(AsRef::as_ref).collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        Self { mesh, root, pods, peers }
    }

    /// What becomes of a policy. `standing` is what an API server tells of it; without, it is taken as written.
    pub fn judge(&self, key: &Key, policy: Policy<'_>, standing: Option<&Standing>) -> Vec<Verdict> {
        let problems = standing.map_or(&[][..], |standing| &standing.problems);
        let taken = standing.map_or(Taken::AsWritten, |standing| standing.taken);
        let edited = standing.is_some_and(|standing| standing.written.generation > 1);
        let mut verdicts =
            vec![accepted(taken, edited, problems), self.enforced(key, policy, taken, problems)];
        if let Policy::Peer(peer) = policy {
            verdicts.extend(self.conflict(peer));
        }
        verdicts
    }

    fn enforced(&self, key: &Key, policy: Policy<'_>, taken: Taken, problems: &[Problem]) -> Verdict {
        let no = |reason, found: String| Verdict::new(ENFORCED, false, reason, found);
        let (name, scope) = (policy.name(), policy.scope());
        let selected = self.selected(name, scope);
        if taken != Taken::AsWritten {
            let what = match (taken, policy) {
                (Taken::LastGood, _) => "is enforced in its last good version",
                (_, Policy::Authorization(_)) => "denies all calls instead",
                (_, Policy::Peer(_)) => "demands mutual TLS (STRICT) instead",
            };
            return no(reason::INVALID, format!("{what}, {}", selected.place()))
                .mend("mend what condition Accepted names");
        }
        if let Some(idle) = self.idle(name, scope, &selected) {
            return idle;
        }
        if let Policy::Authorization(policy) = policy {
            if policy.rules.iter().any(|rule| rule.l7) {
                let rules: Vec<String> = problems
                    .iter()
                    .filter(|problem| problem.message.starts_with(ONLY_HTTP))
                    .map(|p| format!("{}: {}", p.field.as_deref().unwrap_or("spec"), p.message))
                    .collect();
                let rules = if rules.is_empty() { ONLY_HTTP.to_owned() } else { some(&rules, "; ") };
                let found = format!("is not enforced as written, {}: {rules}", selected.place());
                return no(reason::NEEDS_WAYPOINT, found).mend(
                    "write the rules with principals, namespaces, serviceAccounts, ipBlocks and ports alone",
                );
            }
            if policy.action == Action::Unknown {
                let found = format!(
                    "asks an external authorizer (CUSTOM), which is not supported: calls that the rules match are denied, {}",
                    selected.place()
                );
                return no(reason::NOT_SUPPORTED, found).mend("use ALLOW, DENY or AUDIT");
            }
        }
        if !selected.outside.is_empty() && *scope != PolicyScope::Mesh {
            let names: Vec<String> = selected.outside.iter().take(NAMED + 1).map(|pod| shown(pod)).collect();
            let found = format!(
                "is enforced at {}, and {} outside the mesh, where nobody enforces it: {}",
                pods(selected.inside.len()),
                selected_are(selected.outside.len()),
                some(&names, ", ")
            );
            let found = match policy {
                Policy::Peer(peer) => format!("{found}{}", self.decides(peer, &selected).1),
                Policy::Authorization(_) => found,
            };
            return no(reason::PARTLY_ENFORCED, found)
                .mend(into_mesh(selected.outside.first().copied(), key));
        }
        let verdict = match policy {
            Policy::Peer(peer) => self.peer_enforced(peer, &selected),
            Policy::Authorization(_) => {
                Verdict::new(ENFORCED, true, reason::ENFORCED, format!("is enforced {}", selected.place()))
            }
        };
        match selected.opted_out.first() {
            Some(first) if verdict.holds && *scope != PolicyScope::Mesh => {
                let names: Vec<String> =
                    selected.opted_out.iter().take(NAMED + 1).map(|pod| shown(pod)).collect();
                let found = format!(
                    "{}, and {} outside the mesh by a label of its own, where nobody enforces it: {}",
                    verdict.found,
                    selected_are(selected.opted_out.len()),
                    some(&names, ", ")
                );
                no(reason::PODS_OPTED_OUT, found)
                    .mend(format!("nothing, where that is meant; else {}", opt_in_again(first)))
            }
            _ => verdict,
        }
    }

    /// Why a policy decides nothing, and what to do.
    fn idle(&self, name: &NamespacedName, scope: &PolicyScope, selected: &Selected<'_>) -> Option<Verdict> {
        let no =
            |reason, found: &str, mend: String| Some(Verdict::new(ENFORCED, false, reason, found).mend(mend));
        let namespace = &name.namespace;
        if *scope == PolicyScope::Elsewhere {
            let found = "is attached to what no node proxy enforces (a Gateway or its class)";
            let mend = "attach it to a Service, or use a selector".to_owned();
            return no(reason::NEEDS_WAYPOINT, found, mend);
        }
        if let PolicyScope::Services(services) = scope {
            let missing: Vec<String> = services
                .iter()
                .filter(|service| service.namespace != *namespace || self.mesh.service(service).is_none())
                .map(ToString::to_string)
                .collect();
            if !missing.is_empty() {
                let found = format!(
                    "is attached to Service {}, which does not exist in its namespace",
                    some(&missing, ", ")
                );
                let mend = format!("name one of these: kubectl -n {namespace} get services");
                return no(reason::TARGET_NOT_FOUND, &found, mend);
            }
        }
        if !selected.inside.is_empty() {
            return None;
        }
        if !selected.outside.is_empty() {
            let found = format!(
                "selects {}, of which none is in the mesh: nobody enforces it",
                pods(selected.outside.len())
            );
            let of = selected.outside.first().map_or(namespace, |pod| pod.namespace());
            return no(reason::SELECTS_NOTHING, &found, label(of));
        }
        if let Some(first) = selected.opted_out.first() {
            let found = format!(
                "selects {}, of which none is in the mesh, by a label of its own: nobody enforces it",
                pods(selected.opted_out.len())
            );
            return no(reason::SELECTS_NOTHING, &found, opt_in_again(first));
        }
        match scope {
            PolicyScope::Selector(labels) => {
                let wanted: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let near = self.nearest(name, labels);
                let near = near.map(|near| format!("; pods here have {near}")).unwrap_or_default();
                let found = format!("selects nothing: no pod has {}{near}", wanted.join(","));
                let mend = format!(
                    "mend its selector by the labels of: kubectl -n {namespace} get pods --show-labels"
                );
                no(reason::SELECTS_NOTHING, &found, mend)
            }
            PolicyScope::Services(_) => {
                let found = "selects nothing: no pod serves the Service that it is attached to";
                let mend = format!("kubectl -n {namespace} get endpointslices,pods --show-labels");
                no(reason::SELECTS_NOTHING, found, mend)
            }
            _ => {
                let found = "selects nothing yet: there is no pod that it could be about";
                let mend = "nothing, where pods are still to come".to_owned();
                no(reason::SELECTS_NOTHING, found, mend)
            }
        }
    }

    /// Another value that pods have under a key of a selector: mostly what was meant.
    fn nearest(
        &self,
        name: &NamespacedName,
        labels: &[(std::sync::Arc<str>, std::sync::Arc<str>)],
    ) -> Option<String> {
        let pods = self.pods.get(name.namespace.as_ref()).map_or(&[][..], Vec::as_slice);
        let mut found: Vec<String> = labels
            .iter()
            .flat_map(|(key, _)| {
                pods.iter().filter_map(move |pod| Some(format!("{key}={}", pod.label(key)?)))
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        (!found.is_empty()).then(|| some(&found, ", "))
    }

    /// The pods that a policy is about.
    fn selected(&self, name: &NamespacedName, scope: &PolicyScope) -> Selected<'a> {
        let everywhere = match scope {
            PolicyScope::Mesh => true,
            PolicyScope::Selector(_) => *name.namespace == *self.root,
            PolicyScope::Namespace | PolicyScope::Services(_) | PolicyScope::Elsewhere => false,
        };
        let lists: Vec<&Vec<&Workload>> = match everywhere {
            true => self.pods.values().collect(),
            false => self.pods.get(name.namespace.as_ref()).into_iter().collect(),
        };
        let applies = |pod: &&&Workload| self.mesh.applies(name, scope, pod);
        let mut selected = Selected::default();
        for pod in lists.into_iter().flatten().filter(applies) {
            let list = match pod.label(names::MESH_LABEL).map(Text::as_str) {
                _ if pod.in_mesh() => &mut selected.inside,
                Some(names::MESH_NONE) => &mut selected.opted_out,
                _ => &mut selected.outside,
            };
            list.push(*pod);
        }
        for list in [&mut selected.outside, &mut selected.opted_out] {
            list.sort_by(|a, b| a.name().cmp(b.name()));
        }
        selected
    }
}

/// The pods that a policy is about.
#[derive(Default)]
struct Selected<'a> {
    /// In the mesh, as their labels and those of their namespaces say.
    inside: Vec<&'a Workload>,
    /// Not in the mesh, and nobody said that this is meant.
    outside: Vec<&'a Workload>,
    /// Not in the mesh since their own label says so.
    opted_out: Vec<&'a Workload>,
}

impl Selected<'_> {
    fn place(&self) -> String {
        format!("at {} that the mesh has by their labels", pods(self.inside.len()))
    }
}

/// `edited`: it stood there in another version before, which other replicas may know.
fn accepted(taken: Taken, edited: bool, problems: &[Problem]) -> Verdict {
    let line = |problem: &Problem| match &problem.field {
        Some(field) => format!("{field}: {}", problem.message),
        None => problem.message.clone(),
    };
    if taken == Taken::AsWritten {
        // What only HTTP shows is said of condition Enforced.
        let here = |p: &&Problem| p.severity > Severity::Note && !p.message.starts_with(ONLY_HTTP);
        let remarks: Vec<String> = problems.iter().filter(here).map(line).collect();
        let found = match remarks.is_empty() {
            true => "is taken as written".to_owned(),
            false => format!("is taken as written; but {}", some(&remarks, "; ")),
        };
        return Verdict::new(ACCEPTED, true, reason::ACCEPTED, found);
    }
    let why = problems.first().map_or_else(|| "it cannot be read".to_owned(), line);
    let mut found = format!("cannot be taken as written: {why}");
    if taken == Taken::StandIn && edited {
        found.push_str(
            "; a controller that read an earlier version keeps that in use for the nodes that listen to it",
        );
    }
    if taken == Taken::LastGood {
        found.push_str(
            "; a controller that starts from now on does not know that version, and closes the door instead",
        );
    }
    Verdict::new(ACCEPTED, false, reason::INVALID, found).mend("write what the message names as it should be")
}

/// What brings a pod into the mesh.
fn into_mesh(pod: Option<&Workload>, key: &Key) -> String {
    match pod {
        Some(pod) if pod.host_network() => {
            "pods that use the node's network cannot be in the mesh: select others".to_owned()
        }
        Some(pod) => label(pod.namespace()),
        None => label(&key.namespace),
    }
}

fn label(namespace: &str) -> String {
    format!("kubectl label namespace {namespace} aquifer.dev/mesh=ambient")
}

/// What brings a pod back that its own label keeps out.
fn opt_in_again(pod: &Workload) -> String {
    let (namespace, name) = (pod.namespace(), &pod.pod().name);
    format!(
        "take the label away, and out of what makes the pod: kubectl -n {namespace} label pod {name} {}-",
        names::MESH_LABEL
    )
}

fn shown(pod: &Workload) -> String {
    format!("{}/{}", pod.namespace(), pod.pod().name)
}

fn pods(count: usize) -> String {
    if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") }
}

fn selected_are(count: usize) -> String {
    format!("{} that it selects {}", pods(count), if count == 1 { "is" } else { "are" })
}

/// The first few of a list.
fn some(all: &[String], between: &str) -> String {
    let named: Vec<&str> = all.iter().take(NAMED).map(String::as_str).collect();
    let more = all.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!("{between}and {more} more") } else { String::new() };
    format!("{}{rest}", named.join(between))
}

#[cfg(test)]
mod tests;
