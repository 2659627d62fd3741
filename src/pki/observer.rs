//! What certificates tell the outside: one call for each event that is worth a metric or a line in the log; nothing here
//! logs by itself.

use std::time::SystemTime;

use aquifer_model::Identity;

use crate::{CaError, TrustBundle};

/// Takes note of what happens to certificates. Calls come from the control path, some under a lock of the
/// store: they must neither block nor call the store.
pub trait Observer: Send + Sync + 'static {
    /// A certificate for `identity` was issued; `renewal` when it takes the place of another.
    fn issued(&self, identity: &Identity, not_after: SystemTime, renewal: bool) {
        let _ = (identity, not_after, renewal);
    }

    /// No certificate could be had for `identity` this time; it is tried again.
    fn failed(&self, identity: &Identity, error: &CaError) {
        let _ = (identity, error);
    }

    /// Nobody uses `identity` any more.
    fn forgotten(&self, identity: &Identity) {
        let _ = identity;
    }

    /// The bundle was replaced.
    fn bundle_changed(&self, bundle: &TrustBundle) {
        let _ = bundle;
    }

    /// The authority's material was edited and could not be used; the last good state stays. Once for each fault.
    fn refresh_failed(&self, error: &CaError) {
        let _ = error;
    }

    /// The authority's material can be used again after a fault.
    fn refreshed(&self) {}
}

/// Takes note of nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
