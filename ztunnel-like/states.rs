//! What is known of each pod's place in the mesh, for readiness and the admin pages.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aquifer_model::{PodUid, Workload};
use aquifer_telemetry::PodReady;
use tokio::sync::watch;

/// The state of each pod of this node that is in the mesh or was asked to be. Bounded by the pods of the source.
#[derive(Debug, Default)]
pub(crate) struct States {
    states: Mutex<BTreeMap<PodUid, State>>,
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    pod: String,
    identity: String,
    place: Place,
    why: String,
    since: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its enrolment was proved.
    In,
    /// It cannot be enrolled, or that not be proved.
    Waiting,
    /// Nothing new of it is captured.
    Leaving,
}

impl States {
    /// The pod is enrolled, perhaps not for the first time: that is news, also where the same is said of it as before.
    pub(crate) fn enrolled(&self, workload: &Workload) {
        self.ready(workload);
        self.news.send_modify(|version| *version += 1);
    }

    /// The pod's enrolment was proved just now.
    pub(crate) fn ready(&self, workload: &Workload) {
        self.put(workload, Place::In, "enrolled: listeners and packet rules proved".to_owned());
    }

    /// The pod cannot be enrolled, or its enrolment not be proved. True if that is news.
    pub(crate) fn waiting(&self, workload: &Workload, why: String) -> bool {
        self.put(workload, Place::Waiting, why)
    }

    /// The pod leaves the mesh.
    pub(crate) fn leaving(&self, workload: &Workload, carried: usize) {
        self.put(workload, Place::Leaving, format!("connections that are carried to their end: {carried}"));
    }

    /// The pod is none of ours any more.
    pub(crate) fn forget(&self, uid: &PodUid) {
        self.lock().remove(uid);
    }

    /// Whether anything was said of a pod.
    pub(crate) fn knows(&self, uid: &PodUid) -> bool {
        self.lock().contains_key(uid)
    }

    /// Changes whenever the state of a pod did, or one was enrolled.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What is said of a pod.
    pub(crate) fn why(&self, uid: &PodUid) -> Option<String> {
        self.lock().get(uid).map(|state| state.why.clone())
    }

    /// All pods, in the order of their uids.
    pub(crate) fn all(&self) -> Vec<PodReady> {
        self.lock()
            .iter()
            .map(|(uid, state)| PodReady {
                pod: state.pod.clone(),
                uid: uid.to_string(),
                identity: state.identity.clone(),
                ready: state.place != Place::Waiting,
                leaving: state.place == Place::Leaving,
                why: state.why.clone(),
                since: Some(state.since),
            })
            .collect()
    }

    fn put(&self, workload: &Workload, place: Place, why: String) -> bool {
        let news = self.change(workload, place, why);
        if news {
            self.news.send_modify(|version| *version += 1);
        }
        news
    }

    /// True if that is news.
    fn change(&self, workload: &Workload, place: Place, why: String) -> bool {
        let mut states = self.lock();
        if let Some(state) = states.get_mut(workload.uid()) {
            let news = state.place != place || state.why != why;
            if state.place != place {
                state.since = SystemTime::now();
            }
            state.place = place;
            state.why = why;
            state.identity = workload.identity().to_string();
            return news;
        }
        let (pod, identity) = (workload.pod().to_string(), workload.identity().to_string());
        let state = State { pod, identity, place, why, since: SystemTime::now() };
        states.insert(workload.uid().clone(), state);
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodUid, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
