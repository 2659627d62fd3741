//! A certificate with its key as an authority hands it out, and what is read from it.

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// From when until when a certificate is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

/// A certificate as it came from an authority, with the key made for it.
pub struct Issued {
    /// Leaf first, then intermediates, no roots.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Validity {
    /// How far back a certificate begins: clocks of peers may be late by as much.
    pub const BACKDATE: Duration = Duration::from_secs(120);

    /// Holds for `lifetime` from `now`, and begins [`Validity::BACKDATE`] earlier.
    pub fn starting(now: SystemTime, lifetime: Duration) -> Self {
        Self { not_before: now - Self::BACKDATE, not_after: now + lifetime }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
