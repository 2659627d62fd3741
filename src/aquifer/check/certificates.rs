//! Roots and certificates: one set of roots everywhere, none that ends soon, and every certificate renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::facts::Facts;
use super::{Finding, some};
use crate::cluster::{name_of, node_of};
use crate::status::span;

/// Where the user names no other time, a root that ends so soon is worth a warning.
const EXPIRING: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn judge(facts: &Facts, fail_within: Option<Duration>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = differences(facts).into_iter().collect();
    findings
        .extend(first_to_end(facts).map(|(ends, subject)| expiry(ends, &subject, facts.now, fail_within)));
    findings.extend(leaves(facts));
    findings
}

fn differences(facts: &Facts) -> Option<Finding> {
    let mut sets: BTreeMap<BTreeSet<&str>, Vec<&str>> = BTreeMap::new();
    for (pod, pages) in facts.answers(&facts.proxies).chain(facts.answers(&facts.controllers)) {
        let ids = pages.certificates.roots.iter().map(|root| root.id.as_str()).collect();
        sets.entry(ids).or_default().push(name_of(pod));
    }
    (sets.len() > 1).then(|| {
        let each: Vec<String> = sets.values().map(|pods| pods.join(" and ")).collect();
        let mend =
            "wait a minute: a change of roots is on its way; if it stays, look at the logs of the nodes";
        Finding::warning(
            "roots",
            format!("not the same roots are trusted everywhere: {}", each.join("; ")),
            mend,
        )
    })
}

/// The root that ends first, of all that anybody trusts.
fn first_to_end(facts: &Facts) -> Option<(Timestamp, String)> {
    let members = facts.answers(&facts.proxies).chain(facts.answers(&facts.controllers));
    let roots = members.flat_map(|(_, pages)| &pages.certificates.roots);
    roots.filter_map(|root| Some((Timestamp::from_second(root.not_after).ok()?, root.subject.clone()))).min()
}

fn expiry(ends: Timestamp, subject: &str, now: Timestamp, fail_within: Option<Duration>) -> Finding {
    const CHECK: &str = "root-expiry";
    let left = Duration::try_from(ends.duration_since(now)).unwrap_or_default();
    let found = match left {
        Duration::ZERO => format!("the root {subject:?} has ended: nobody trusts who stands on it any more"),
        _ => format!("the root {subject:?} holds for {}", span(now, ends)),
    };
    let mend = "put the next root beside it in root-cert.pem, then let the next issuer sign (ca-cert.pem, ca-key.pem), then take the old one away: kubectl -n aquifer-system edit secret aquifer-ca";
    if left.is_zero() || fail_within.is_some_and(|within| left <= within) {
        return Finding::error(CHECK, found, mend);
    }
    if left <= EXPIRING {
        return Finding::warning(CHECK, found, mend);
    }
    Finding::good(CHECK, found)
}

/// Certificates of pods that have ended, or will since nobody renews them.
fn leaves(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "certificates";
    let (mut count, mut ended, mut stuck) = (0_usize, Vec::new(), Vec::new());
    for (pod, pages) in facts.answers(&facts.proxies) {
        for leaf in &pages.certificates.certificates {
            count += 1;
            let ends = Timestamp::from_second(leaf.not_after).unwrap_or(Timestamp::MAX);
            let why = leaf.last_error.as_deref().unwrap_or("nobody tried");
            if ends <= facts.now {
                ended.push(format!("{} on {} ({why})", leaf.identity, node_of(pod)));
            } else if leaf.last_error.is_some() {
                stuck.push(format!(
                    "{} on {}, for {} more ({why})",
                    leaf.identity,
                    node_of(pod),
                    span(facts.now, ends)
                ));
            }
        }
    }
    let mend = "the reason in parentheses is the controller's, or says why it was not reached: kubectl -n aquifer-system logs deployment/aquifer-controller";
    if !ended.is_empty() {
        return Some(Finding::error(CHECK, format!("certificates have ended: {}", some(&ended)), mend));
    }
    if !stuck.is_empty() {
        return Some(Finding::warning(
            CHECK,
            format!("certificates are not renewed: {}", some(&stuck)),
            mend,
        ));
    }
    (count > 0).then(|| Finding::good(CHECK, format!("{count} certificates hold and are renewed")))
}
