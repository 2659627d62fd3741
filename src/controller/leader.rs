//! Which of the replicas writes: the one that holds a Lease (coordination.k8s.io/v1), as client-go's leader election has it.
//!
//! Clocks of replicas are not compared: another's Lease counts as expired once it was seen unchanged for its whole term by this replica's
//! own clock. Who leads stops before its Lease could be taken: it counts from before it asked for the renewal.

use std::sync::Arc;
use std::time::Duration;

use aquifer_k8s::names;
use aquifer_telemetry::Telemetry;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// The Lease, in the controller's namespace.
pub(crate) const LEASE: &str = names::CONTROLLER;

/// A Lease that is not renewed may be taken by another after so long.
const TERM: Duration = Duration::from_secs(15);
/// It is renewed so often.
const RENEWAL: Duration = Duration::from_secs(5);
/// Who could not renew it for so long writes no more. Less than the term by more than a write may take.
const GIVES_UP: Duration = Duration::from_secs(10);
/// Who does not lead, or could not renew, looks again after so long.
const AGAIN: Duration = Duration::from_secs(2);
/// An answer of the API server is waited for so long.
const CALL: Duration = Duration::from_secs(4);
/// A Lease that is given back is free after so long: the shortest that Kubernetes knows.
const FREE: i32 = 1;

/// Whether this replica leads, for whoever writes.
#[derive(Clone, Debug)]
pub(crate) struct Leading(watch::Receiver<Option<Instant>>);

impl Leading {
    /// Whether it may write now.
    pub(crate) fn now(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Comes back once it leads; never, where there is no election any more.
    pub(crate) async fn leads(&mut self) {
        loop {
            if self.now() {
                return;
            }
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// This replica in the election.
pub(crate) struct Candidate {
    leases: Api<Lease>,
    view: View,
    telemetry: Telemetry,
    until: watch::Sender<Option<Instant>>,
}

impl Candidate {
    /// Of a replica, in the controller's namespace. `name` must be this process's own.
    pub(crate) fn new(client: Client, namespace: &str, name: &str, telemetry: Telemetry) -> Self {
        let (until, _) = watch::channel(None);
        telemetry.controller().leads(false);
        let view = View { name: name.to_owned(), seen: None };
        Self { leases: Api::namespaced(client, namespace), view, telemetry, until }
    }

    /// For whoever writes.
    pub(crate) fn leading(&self) -> Leading {
        Leading(self.until.subscribe())
    }

    /// Takes part for ever.
    pub(crate) async fn run(mut self) {
        let mut said = None;
        loop {
            let asked = Instant::now();
            let outcome = match timeout(CALL, self.ask(asked)).await {
                Ok(outcome) => outcome.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
            };
            match outcome {
                Ok(true) => self.lead(Some(asked + GIVES_UP)),
                Ok(false) => self.lead(None),
                Err(ref why) if said.as_ref() != Some(why) => {
                    warn!(why, "the Lease of the controllers cannot be asked for");
                    said = Some(why.clone());
                }
                Err(_) => {}
            }
            if outcome.is_ok() {
                said = None;
            }
            let late = self.until.borrow().is_some_and(|until| Instant::now() >= until);
            if late {
                self.lead(None);
            }
            sleep(if outcome == Ok(true) { RENEWAL } else { AGAIN }).await;
        }
    }

    fn lead(&self, until: Option<Instant>) {
        let before = self.until.send_replace(until).is_some();
        if before != until.is_some() {
            self.telemetry.controller().leads(until.is_some());
            match before {
                false => info!(name = self.view.name, "this replica leads: it writes statuses"),
                true => info!(name = self.view.name, "this replica leads no more"),
            }
        }
    }

    /// Looks at the Lease, and takes or renews it where it may. Whether it has it then.
    async fn ask(&mut self, now: Instant) -> Result<bool, Error> {
        let lease = self.leases.get_opt(LEASE).await?;
        let Some(wanted) = self.view.look(lease, now, Timestamp::now()) else { return Ok(false) };
        let params =
            PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let taken = match wanted.metadata.resource_version.is_some() {
            true => self.leases.replace(LEASE, &params, &wanted).await,
            false => self.leases.create(&params, &wanted).await,
        };
        match taken {
            Ok(lease) => {
                self.view.seen = lease.spec.map(|spec| (spec, now));
                Ok(true)
            }
            // Another was first.
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Gives the Lease back, so that another replica takes it at once. Nothing may be written from here on.
pub(crate) async fn release(client: Client, namespace: &str, name: &str) -> Result<(), Error> {
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    let Some(mut lease) = leases.get_opt(LEASE).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(name)) else {
        return Ok(());
    };
    spec.holder_identity = None;
    spec.lease_duration_seconds = Some(FREE);
    leases.replace(LEASE, &PostParams::default(), &lease).await.map(drop)
}

/// A name that no other process has: this machine's, which is a pod's own, and a random part.
pub(crate) fn name_of_this() -> anyhow::Result<Arc<str>> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(format!("{}_{:016x}", host.trim(), u64::from_be_bytes(random)).into())
}

/// The Lease as this replica saw it.
#[derive(Debug)]
struct View {
    name: String,
    /// As it stood last, and since when it stands so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl View {
    /// The Lease as it is to be written; `None` while another has it.
    fn look(&mut self, lease: Option<Lease>, now: Instant, clock: Timestamp) -> Option<Lease> {
        let clock = MicroTime(clock);
        let fresh = |transitions| LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: i32::try_from(TERM.as_secs()).ok(),
            acquire_time: Some(clock.clone()),
            renew_time: Some(clock.clone()),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        let Some(lease) = lease else {
            let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
            return Some(Lease { metadata, spec: Some(fresh(0)) });
        };
        let spec = lease.spec.unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or_default();
        if holder == self.name {
            let renewed = LeaseSpec { acquire_time: spec.acquire_time, ..fresh(transitions) };
            return Some(Lease { metadata: lease.metadata, spec: Some(renewed) });
        }
        let term = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => now,
        };
        if !holder.is_empty() && now < since + Duration::from_secs(term) {
            self.seen = Some((spec, since));
            return None;
        }
        let taken = fresh(transitions.saturating_add(1));
        Some(Lease { metadata: lease.metadata, spec: Some(taken) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: &str) -> View {
        View { name: name.to_owned(), seen: None }
    }

    fn take(lease: Option<Lease>) -> Lease {
        let mut lease = lease.unwrap_or_else(|| panic!("it waits"));
        lease.metadata.resource_version = Some("1".to_owned());
        lease
    }

    fn holder(lease: &Lease) -> &str {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    #[test]
    fn a_lease_is_taken_renewed_and_taken_over_once_it_stood_still_for_its_term() {
        let (mut one, mut two) = (view("one"), view("two"));
        let (start, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let after = |seconds| start + Duration::from_secs(seconds);
        let lease = take(one.look(None, start, clock));
        assert_eq!(holder(&lease), "one");
        assert!(two.look(Some(lease.clone()), start, clock).is_none());

        // The clocks of the two may differ as they like: only that it moves counts.
        let renewed = take(one.look(Some(lease), after(14), Timestamp::MIN));
        assert!(two.look(Some(renewed.clone()), after(14), Timestamp::MAX).is_none());
        assert!(two.look(Some(renewed.clone()), after(28), clock).is_none());
        let taken = take(two.look(Some(renewed), after(29), clock));
        assert_eq!(holder(&taken), "two");
        assert_eq!(taken.spec.as_ref().and_then(|spec| spec.lease_transitions), Some(1));
        assert!(one.look(Some(taken), after(30), clock).is_none());
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let (mut one, mut two) = (view("one"), view("two"));
        let now = Instant::now();
        let mut lease = take(one.look(None, now, Timestamp::UNIX_EPOCH));
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        assert_eq!(holder(&take(two.look(Some(lease), now, Timestamp::UNIX_EPOCH))), "two");
    }

    #[test]
    fn who_cannot_renew_stops_before_another_may_begin() {
        let (until, receiver) = watch::channel(Some(Instant::now() + TERM));
        let leading = Leading(receiver);
        assert!(leading.now());
        until.send_replace(Some(Instant::now()));
        assert!(!leading.now(), "it writes past its time");
        const { assert!(GIVES_UP.as_secs() + CALL.as_secs() < TERM.as_secs()) };
    }
}
