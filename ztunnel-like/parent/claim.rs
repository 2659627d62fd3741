//! The time between the moment at which another process was given all that is enrolled, and that at which it serves it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use aquifer_sys::fdpass::Message;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::enrolment::Enrolment;
use crate::protocol::{ToParent, decode};
use crate::succession::{Next, SILENCE};

/// How long a process that takes over may need until it serves: its worker may have to ask a controller for everything.
pub(super) const SUCCESSION: Duration = Duration::from_secs(60);

/// A process that was given all that is enrolled, and does not serve it yet.
pub(super) struct Claim {
    pub(super) next: Next,
    until: Instant,
    heard: Instant,
    /// Enrolments that were made since. Bounded by the pods that begin within [`SUCCESSION`].
    pub(super) withheld: Vec<Message>,
}

impl Claim {
    pub(super) async fn grant(next: Next, enrolments: &BTreeMap<String, Enrolment>) -> Option<Self> {
        match next.give(enrolments.values()).await {
            Ok(()) => {
                let now = Instant::now();
                Some(Self { next, until: now + SUCCESSION, heard: now, withheld: Vec::new() })
            }
            Err(error) => {
                warn!(%error, pid = %next.pid, "it does not take what it came for; this process goes on");
                None
            }
        }
    }

    /// Waits until it serves; the error says why it never will. Safe to drop half-way.
    pub(super) async fn end(claim: &mut Option<Self>) -> io::Result<()> {
        let Some(claim) = claim else { return std::future::pending().await };
        loop {
            let patience = claim.until.min(claim.heard + SILENCE);
            match timeout_at(patience, claim.next.serves()).await {
                Ok(serves) => match serves? {
                    true => return Ok(()),
                    false => claim.heard = Instant::now(),
                },
                Err(_) => {
                    claim.next.end();
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it hangs, and was killed"));
                }
            }
        }
    }

    /// Keeps a message of the worker back if it is a new enrolment: the worker waits for the answer, and begins again where none comes.
    pub(super) fn withhold(&mut self, (bytes, descriptors): &Message) -> bool {
        let new = matches!(decode::<ToParent>(bytes), Ok(ToParent::Keep(_)));
        if new {
            let copies = descriptors.iter().map(|fd| fd.try_clone()).collect::<Result<_, _>>();
            self.withheld.extend(copies.ok().map(|copies| (bytes.clone(), copies)));
        }
        new
    }
}
