//! What a controller counts besides certificates and its source.

use metrics::{Counter, Gauge};

use crate::catalog;
use crate::recorder::Recorder;

/// The controller's port.
#[derive(Clone, Debug)]
pub struct Controller {
    recorder: Recorder,
    listeners: Gauge,
    rejections: Counter,
    leads: Gauge,
}

impl Controller {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self {
            recorder: recorder.clone(),
            listeners: recorder.gauge(&catalog::LISTENERS),
            rejections: recorder.counter(&catalog::REJECTIONS),
            leads: recorder.gauge(&catalog::LEADS),
        }
    }

    /// So many streams are served now, and so many answers were rejected in all. (The feed counts.)
    pub fn discovery(&self, streams: usize, rejections: u64) {
        self.listeners.set(streams as f64);
        self.rejections.absolute(rejections);
    }

    /// Whether this replica writes statuses now.
    pub fn leads(&self, leads: bool) {
        self.leads.set(f64::from(u8::from(leads)));
    }

    /// A policy was not accepted; `reason` is what is in use instead: `last-good` or `denies`.
    pub fn policy_refused(&self, kind: &'static str, reason: &'static str) {
        self.recorder.counter_with_two(&catalog::POLICY_REFUSALS, [kind, reason]).increment(1);
    }

    /// A policy's status was written, or could not be.
    pub fn status_written(&self, outcome: &'static str) {
        self.recorder.counter_with(&catalog::STATUS_WRITES, outcome).increment(1);
    }

    /// The taint of a node whose proxy is ready was taken off (`written`), or could not be (`failed`).
    pub fn untainted(&self, outcome: &'static str) {
        self.recorder.counter_with(&catalog::UNTAINTS, outcome).increment(1);
    }

    /// An event was written (`written`), was there already (`known`), or could not be written (`failed`).
    pub fn event(&self, outcome: &'static str) {
        self.recorder.counter_with(&catalog::EVENTS, outcome).increment(1);
    }

    /// A call was refused; `reason` is a word of the code.
    pub fn refused(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::REFUSALS, reason).increment(1);
    }
}
