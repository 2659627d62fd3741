//! Which statuses are to be written: those whose content differs from what stands there. No IO here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aquifer_k8s::{StatusCondition, Time};
use aquifer_source::verdict::{Ground, Policy, Verdict};
use aquifer_source::{Key, Kind, Standing};
use jiff::Timestamp;

use super::Moment;

/// A change of words alone (as when pods come and go) is written once in so long; a change of a condition at once.
const WORDS: Duration = Duration::from_secs(30);

/// What was written is not written again before it could have been seen: so long.
const SEEN: Duration = Duration::from_secs(30);

/// A status to be written.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) conditions: Vec<StatusCondition>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) writes: Vec<Write>,
    /// After how long to look again, where something was put off.
    pub(super) again: Option<Duration>,
}

/// What this replica wrote and told. Bounded by the policies.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Versions of policies of whose refusal an event tells: uid and generation.
    told: HashMap<Key, (String, i64)>,
    wrote: HashMap<Key, (Write, Instant)>,
}

impl Memory {
    /// Keeps that this was written.
    pub(super) fn wrote(&mut self, write: Write, at: Instant) {
        self.wrote.insert(write.key.clone(), (write, at));
    }

    /// Whether an event tells that this version of a policy is refused.
    pub(super) fn is_told(&self, key: &Key, standing: &Standing) -> bool {
        let written = &standing.written;
        self.told
            .get(key)
            .is_some_and(|(uid, generation)| (uid, generation) == (&written.uid, &written.generation))
    }

    /// Keeps that it does.
    pub(super) fn told(&mut self, key: &Key, standing: &Standing) {
        self.told.insert(key.clone(), (standing.written.uid.clone(), standing.written.generation));
    }

    /// What is to be written, of our own kinds: Istio's objects have a writer of their own.
    pub(super) fn due(&mut self, moment: &Moment, root: &str, clock: Timestamp, now: Instant) -> Due {
        self.wrote.retain(|key, _| moment.policies.contains_key(key));
        self.told.retain(|key, _| moment.policies.contains_key(key));
        let authorizations: HashMap<_, _> =
            moment.mesh.policies().map(|policy| (&policy.name, policy.as_ref())).collect();
        let peers: HashMap<_, _> =
            moment.mesh.peer_authentications().map(|policy| (&policy.name, policy.as_ref())).collect();
        let ground = Ground::new(&moment.mesh, root);
        let mut due = Due::default();
        for (key, standing) in moment.policies.iter() {
            let name = aquifer_model::NamespacedName::new(key.namespace.clone(), key.name.clone());
            let policy = match key.kind {
                Kind::AuthorizationPolicy => authorizations.get(&name).map(|p| Policy::Authorization(p)),
                Kind::PeerAuthentication => peers.get(&name).map(|p| Policy::Peer(p)),
                _ => None,
            };
            let Some(policy) = policy else { continue };
            let verdicts = ground.judge(key, policy, Some(standing));
            let (write, again) = self.decide(key, standing, &verdicts, clock, now);
            due.writes.extend(write);
            due.again = due.again.into_iter().chain(again).min();
        }
        due
    }

    fn decide(
        &self,
        key: &Key,
        standing: &Standing,
        verdicts: &[Verdict],
        clock: Timestamp,
        now: Instant,
    ) -> (Option<Write>, Option<Duration>) {
        let written = &standing.written;
        let last = self.wrote.get(key).filter(|(write, _)| write.uid == written.uid);
        let age = last.map(|(_, at)| now.saturating_duration_since(*at));
        // What was just written may not have come back yet.
        let unseen = last.filter(|_| age.is_some_and(|age| age < SEEN)).map(|(write, _)| &write.conditions);
        let stands = unseen.unwrap_or(&written.conditions);
        let wanted = conditions(verdicts, stands, written.generation, clock);
        if same(&wanted, stands, true) {
            let differs = !same(&wanted, &written.conditions, true);
            let again = age.filter(|_| differs).map(|age| SEEN.saturating_sub(age));
            return (None, again);
        }
        let words_alone = same(&wanted, stands, false);
        if let Some(age) = age.filter(|age| words_alone && *age < WORDS) {
            return (None, Some(WORDS.saturating_sub(age)));
        }
        (Some(Write { key: key.clone(), uid: written.uid.clone(), conditions: wanted }), None)
    }
}

/// Verdicts as conditions. One that was so before keeps the time since when.
fn conditions(
    verdicts: &[Verdict],
    before: &[StatusCondition],
    generation: i64,
    clock: Timestamp,
) -> Vec<StatusCondition> {
    let condition = |verdict: &Verdict| {
        let status = if verdict.holds { "True" } else { "False" };
        let old = before.iter().find(|old| old.type_ == verdict.condition && old.status == status);
        // Kubernetes keeps whole seconds.
        let now = Timestamp::from_second(clock.as_second()).unwrap_or(clock);
        StatusCondition {
            type_: verdict.condition.to_owned(),
            status: status.to_owned(),
            observed_generation: Some(generation),
            last_transition_time: old.map_or(Time(now), |old| old.last_transition_time.clone()),
            reason: verdict.reason.to_owned(),
            message: verdict.message(),
        }
    };
    verdicts.iter().map(condition).collect()
}

/// Whether two say the same; `words` too, or only what programs look at.
fn same(wanted: &[StatusCondition], stands: &[StatusCondition], words: bool) -> bool {
    let equal = |a: &StatusCondition, b: &StatusCondition| {
        (&a.status, &a.reason, a.observed_generation) == (&b.status, &b.reason, b.observed_generation)
            && (!words || a.message == b.message)
    };
    wanted.len() == stands.len()
        && wanted.iter().all(|a| stands.iter().any(|b| a.type_ == b.type_ && equal(a, b)))
}

#[cfg(test)]
mod tests {
    use aquifer_source::verdict::{ACCEPTED, ENFORCED, reason};
    use aquifer_source::{Taken, Written};

    use super::*;

    fn verdict(condition: &'static str, holds: bool, words: &str) -> Verdict {
        let reason = if holds { reason::ENFORCED } else { reason::SELECTS_NOTHING };
        Verdict { condition, holds, reason, found: words.to_owned(), mend: None }
    }

    fn standing(generation: i64, conditions: Vec<StatusCondition>) -> Standing {
        let written = Written {
            api_version: "aquifer.dev/v1alpha1".to_owned(),
            uid: "u".to_owned(),
            generation,
            conditions,
        };
        Standing { written, taken: Taken::AsWritten, problems: Vec::new() }
    }

    fn key() -> Key {
        Key::new(Kind::AuthorizationPolicy, &"shop".into(), &"p".into())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or_default()
    }

    #[test]
    fn what_stands_there_is_not_written_again_and_what_was_written_not_before_it_is_seen() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let verdicts = [verdict(ACCEPTED, true, "a"), verdict(ENFORCED, true, "2 pods")];
        let fresh = standing(1, Vec::new());
        let write = memory.decide(&key(), &fresh, &verdicts, at(7), start).0;
        let write = write.unwrap_or_else(|| panic!("nothing is written"));
        assert_eq!(write.conditions.len(), 2);
        memory.wrote(write.clone(), start);
        let (second, again) = memory.decide(&key(), &fresh, &verdicts, at(8), start);
        assert!(second.is_none() && again == Some(SEEN), "{second:?} {again:?}");

        let seen = standing(1, write.conditions.clone());
        let (third, again) = memory.decide(&key(), &seen, &verdicts, at(9), start);
        assert!(third.is_none() && again.is_none());
        // Another replica, which wrote nothing, has nothing to write either.
        assert!(Memory::default().decide(&key(), &seen, &verdicts, at(9), start).0.is_none());
        // What somebody else took away is written again, once that is sure.
        assert!(memory.decide(&key(), &fresh, &verdicts, at(99), start + SEEN).0.is_some());
    }

    #[test]
    fn a_condition_is_written_at_once_and_words_after_a_while() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let verdicts = [verdict(ENFORCED, true, "2 pods")];
        let write = memory.decide(&key(), &standing(1, Vec::new()), &verdicts, at(7), start).0;
        let write = write.unwrap_or_else(|| panic!("nothing is written"));
        memory.wrote(write.clone(), start);
        let seen = standing(1, write.conditions);
        let soon = start + Duration::from_secs(1);
        let words = [verdict(ENFORCED, true, "3 pods")];
        let (none, again) = memory.decide(&key(), &seen, &words, at(8), soon);
        assert!(none.is_none() && again == Some(Duration::from_secs(29)), "{again:?}");
        let later = memory.decide(&key(), &seen, &words, at(40), start + WORDS).0;
        let later = later.unwrap_or_else(|| panic!("words are never written"));
        assert_eq!(later.conditions[0].last_transition_time, Time(at(7)), "it was so before");

        let other = [verdict(ENFORCED, false, "none")];
        let now = memory.decide(&key(), &seen, &other, at(8), soon).0;
        let now = now.unwrap_or_else(|| panic!("a condition waits"));
        assert_eq!(now.conditions[0].last_transition_time, Time(at(8)));
        let edited = standing(2, seen.written.conditions.clone());
        assert!(memory.decide(&key(), &edited, &verdicts, at(8), soon).0.is_some(), "a new generation");
    }
}
