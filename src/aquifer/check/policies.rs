//! Policies that are not accepted, not enforced as they are written, or enforced nowhere. What the controller wrote into a policy's
//! status counts where it is about what stands in the policy now; else the same is found out here.

use aquifer_model::PolicyScope;
use aquifer_source::verdict::{ACCEPTED, CONFLICTED, ENFORCED, Ground, Policy, Verdict, parts, reason};
use aquifer_source::{Key, Standing};

use super::facts::Facts;
use super::{Finding, Level};
use crate::cluster::Live;

const CHECK: &str = "policies";

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Ok(live) = &facts.mesh else { return Vec::new() };
    let ground = Ground::new(&live.mesh, &live.config.root_namespace);
    let (mut findings, mut count) = (Vec::new(), 0_usize);
    for (key, object) in live.objects.iter() {
        let Some(policy) = Policy::of(object) else { continue };
        count += 1;
        let standing = live.policies.get(key);
        let said = match standing.and_then(written) {
            Some(said) => said,
            None => {
                ground.judge(key, policy, standing).into_iter().map(|v| found_here(facts, key, v)).collect()
            }
        };
        findings.extend(wrong(live, key, policy, said));
    }
    if findings.is_empty() && count > 0 {
        findings.push(Finding::good(CHECK, format!("{count} policies are enforced as they are written")));
    }
    findings
}

/// One condition of a policy.
struct Said {
    condition: String,
    holds: bool,
    reason: String,
    found: String,
    mend: Option<String>,
}

/// What the controller wrote, where that is of now.
fn written(standing: &Standing) -> Option<Vec<Said>> {
    let said = standing.written.current()?.iter().map(|condition| {
        let (found, mend) = parts(&condition.message);
        Said {
            condition: condition.type_.clone(),
            holds: condition.status == "True",
            reason: condition.reason.clone(),
            found: found.to_owned(),
            mend: mend.map(str::to_owned),
        }
    });
    Some(said.collect())
}

/// What was found out here. Whether a version is known that could be read before, the controller alone knows: it says so among its
/// problems.
fn found_here(facts: &Facts, key: &Key, verdict: Verdict) -> Said {
    let told = || {
        let problems = facts.answers(&facts.controllers).flat_map(|(_, pages)| &pages.discovery.problems);
        let mut lines = problems.filter_map(|line| line.strip_prefix(&format!("{key}: ")));
        lines.find(|line| line.contains("error: ")).map(|line| format!("cannot be taken as written: {line}"))
    };
    let refused = verdict.condition == ACCEPTED && !verdict.holds;
    let found = if refused { told() } else { None }.unwrap_or(verdict.found);
    Said {
        condition: verdict.condition.to_owned(),
        holds: verdict.holds,
        reason: verdict.reason.to_owned(),
        found,
        mend: verdict.mend,
    }
}

/// What of it is wrong, each thing once.
fn wrong(live: &Live, key: &Key, policy: Policy<'_>, said: Vec<Said>) -> Vec<Finding> {
    let is = |condition: &str, holds: bool| {
        said.iter().any(|said| said.condition == condition && said.holds == holds)
    };
    let (refused, conflicted) = (is(ACCEPTED, false), is(CONFLICTED, true));
    let finding = |said: &Said| {
        let level = match said.condition.as_str() {
            ACCEPTED if !said.holds => Level::Error,
            CONFLICTED if said.holds => Level::Warning,
            // What is enforced instead is told with the refusal, and who decides with the conflict.
            ENFORCED if said.holds || refused => return None,
            ENFORCED if conflicted && said.reason == reason::OVERRIDDEN => return None,
            ENFORCED if said.reason == reason::SELECTS_NOTHING && waits(live, key, policy.scope()) => {
                return None;
            }
            // Said, but not for ever a warning: whoever labelled the pods meant it.
            ENFORCED if said.reason == reason::PODS_OPTED_OUT => Level::Good,
            ENFORCED => Level::Warning,
            _ => return None,
        };
        let mend = said
            .mend
            .clone()
            .unwrap_or_else(|| format!("kubectl -n {} describe {}", key.namespace, named(key)));
        let finding = Finding::warning(CHECK, format!("{key} {}", said.found), mend);
        Some(Finding { level, ..finding }.of(format!("the owner of namespace {}", key.namespace)))
    };
    said.iter().filter_map(finding).collect()
}

/// As kubectl names it: with its group, since the two groups share names.
fn named(key: &Key) -> String {
    let plural = match key.kind.as_str() {
        "PeerAuthentication" => "peerauthentications",
        _ => "authorizationpolicies",
    };
    format!("{plural} {}", key.name)
}

/// Whether it waits for its first pod, as a default for a namespace or the mesh does.
fn waits(live: &Live, key: &Key, scope: &PolicyScope) -> bool {
    match scope {
        PolicyScope::Mesh => true,
        PolicyScope::Namespace => {
            let mut pods = live.mesh.workloads().filter(|pod| !pod.finished());
            !pods.any(|pod| *pod.namespace() == key.namespace)
        }
        _ => false,
    }
}
