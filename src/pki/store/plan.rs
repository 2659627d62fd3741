//! When a certificate is renewed: a decision by the wall clock alone, so that a clock that jumps is met by the next look.

use std::time::{Duration, SystemTime};

/// The longest pause between two attempts.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What is known of one identity's certificate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// See [`renew_at`].
    pub(super) renew_at: SystemTime,
    /// Signed by who signs now, or nobody tells.
    pub(super) issuer_is_current: bool,
    /// It leads to a root of today's bundle.
    pub(super) trusted: bool,
    /// Not before this, after a failure.
    pub(super) retry_at: Option<SystemTime>,
}

/// Why a certificate is to be replaced, most pressing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Ended,
    NotYetValid,
    RootRemoved,
    IssuerChanged,
    HalfLife,
}

impl Standing {
    /// Why it is to be replaced now, if it is.
    pub(super) fn due(&self, now: SystemTime) -> Option<Reason> {
        let reason = if now >= self.not_after {
            Reason::Ended
        } else if now < self.not_before {
            Reason::NotYetValid
        } else if !self.trusted {
            Reason::RootRemoved
        } else if !self.issuer_is_current {
            Reason::IssuerChanged
        } else if now >= self.renew_at {
            Reason::HalfLife
        } else {
            return None;
        };
        // A pause longer than any we ever set means that the clock was set back since.
        let waits = self.retry_at.is_some_and(|at| now < at && at <= now + MAX_PAUSE);
        (!waits).then_some(reason)
    }
}

/// Half of what was left at `issued`, a tenth earlier or later, so that pods that started together do not renew together.
pub(super) fn renew_at(issued: SystemTime, not_after: SystemTime, entropy: u16) -> SystemTime {
    let left = not_after.duration_since(issued).unwrap_or_default();
    issued + left.mul_f64(0.4 + 0.2 * share(entropy))
}

/// The pause after so many failures in a row: 1 s, doubled each time up to [`MAX_PAUSE`], and up to a quarter shorter.
pub(super) fn pause(failures: u32, entropy: u16) -> Duration {
    let full = Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(MAX_PAUSE);
    full.mul_f64(1.0 - 0.25 * share(entropy))
}

fn share(entropy: u16) -> f64 {
    f64::from(entropy) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u32) -> SystemTime {
        UNIX_EPOCH + HOUR * 1000 + HOUR * hours
    }

    fn standing() -> Standing {
        Standing {
            not_before: at(0),
            not_after: at(24),
            renew_at: at(12),
            issuer_is_current: true,
            trusted: true,
            retry_at: None,
        }
    }

    #[test]
    fn a_fresh_certificate_rests_until_half_life() {
        assert_eq!(standing().due(at(1)), None);
        assert_eq!(standing().due(at(12)), Some(Reason::HalfLife));
        assert_eq!(standing().due(at(24)), Some(Reason::Ended));
    }

    #[test]
    fn a_changed_authority_makes_it_due_at_once() {
        let issuer = Standing { issuer_is_current: false, ..standing() };
        assert_eq!(issuer.due(at(1)), Some(Reason::IssuerChanged));
        let root = Standing { trusted: false, ..issuer };
        assert_eq!(root.due(at(1)), Some(Reason::RootRemoved));
    }

    #[test]
    fn clocks_that_jump_are_met_at_the_next_look() {
        assert_eq!(standing().due(at(500)), Some(Reason::Ended));
        assert_eq!(standing().due(UNIX_EPOCH), Some(Reason::NotYetValid));
        // A failure at hour 20 asked for a pause; then the clock went back to hour 13.
        let failed = Standing { retry_at: Some(at(20)), ..standing() };
        assert_eq!(failed.due(at(13)), Some(Reason::HalfLife));
    }

    #[test]
    fn a_failure_is_given_its_pause() {
        let now = at(13);
        let failed = Standing { retry_at: Some(now + Duration::from_secs(30)), ..standing() };
        assert_eq!(failed.due(now), None);
        assert_eq!(failed.due(now + Duration::from_secs(30)), Some(Reason::HalfLife));
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<u64> = (1..=8).map(|n| pause(n, 0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX, u16::MAX), MAX_PAUSE.mul_f64(0.75));
    }

    #[test]
    fn renewal_is_at_half_life_give_or_take_a_tenth() {
        assert_eq!(renew_at(at(0), at(20), 0), at(8));
        assert_eq!(renew_at(at(0), at(20), u16::MAX), at(12));
        assert_eq!(renew_at(at(5), at(0), 7), at(5));
    }
}
