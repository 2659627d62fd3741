//! Time as an argument: the system's clock, or a test's.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where time comes from; tests put in their own.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Instant + Send + Sync>,
}

impl Clock {
    /// The system's monotonic clock.
    pub fn system() -> Self {
        Self::new(Instant::now)
    }

    /// A clock of one's own.
    pub fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now) }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        (self.now)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Milliseconds since the line was made, so that a point in time fits an atomic.
#[derive(Debug)]
pub(crate) struct Timeline {
    clock: Clock,
    origin: Instant,
}

impl Timeline {
    pub(crate) fn new(clock: Clock) -> Self {
        let origin = clock.now();
        Self { clock, origin }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn millis(&self) -> u64 {
        millis(self.now().saturating_duration_since(self.origin))
    }
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
