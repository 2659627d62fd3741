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
}

impl Controller {
    pub(crate) fn new(recorder: &Recorder) -> Self {
        Self {
            recorder: recorder.clone(),
            listeners: recorder.gauge(&catalog::LISTENERS),
            rejections: recorder.counter(&catalog::REJECTIONS),
        }
    }

    /// So many streams are served now, and so many answers were rejected in all. (The feed counts.)
    pub fn discovery(&self, streams: usize, rejections: u64) {
        self.listeners.set(streams as f64);
        self.rejections.absolute(rejections);
    }

    /// A call was refused; `reason` is a word of the code.
    pub fn refused(&self, reason: &'static str) {
        self.recorder.counter_with(&catalog::REFUSALS, reason).increment(1);
    }
}
