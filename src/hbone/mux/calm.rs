//! The bound on what a peer makes this side do for nothing.

use super::Violation;
use crate::code::ResetReason;

/// Frames without use that a peer may have sent more than frames with use. Honest peers stay far below: their PINGs,
/// WINDOW_UPDATEs and resets come beside many more frames that carry or let carry bytes. The number is that of Go's and
/// h2's bounds for queued control frames.
const MOST: u32 = 10_000;
/// What a frame of use makes up for.
const WORTH: u32 = 10;
/// Bytes that are sent are worth a frame of use each, however many go at once.
const FRAME: usize = 16 << 10;
/// What a request costs that was given up before anybody looked at it: floods of them are cheap to send, and honest clients
/// give up a hundred at once at most.
const GIVEN_UP: u32 = 60;
/// What passes in each pause between PINGs, so that those on a tunnel at rest never add up.
const REST: u32 = 1_000;

#[derive(Debug, Default)]
pub(super) struct Calm(u32);

impl Calm {
    /// Something of use happened: bytes, a request, an answer.
    pub(super) fn progress(&mut self) {
        self.0 = self.0.saturating_sub(WORTH);
    }

    /// Bytes were sent, in one go. The peer tells of them in WINDOW_UPDATEs: Go's for each 4 KiB, of stream and connection.
    pub(super) fn sent(&mut self, bytes: usize) {
        let frames = u32::try_from(bytes.div_ceil(FRAME)).unwrap_or(u32::MAX);
        self.0 = self.0.saturating_sub(frames.saturating_mul(WORTH));
    }

    /// A pause between PINGs has passed.
    pub(super) fn rest(&mut self) {
        self.0 = self.0.saturating_sub(REST);
    }

    /// Something came that carries nothing.
    ///
    /// # Errors
    /// It was one too many; `text` says of what.
    pub(super) fn idle(&mut self, text: &'static str) -> Result<(), Violation> {
        self.cost(1, text)
    }

    /// A request was given up unseen.
    ///
    /// # Errors
    /// It was one too many.
    pub(super) fn given_up(&mut self) -> Result<(), Violation> {
        self.cost(GIVEN_UP, "too many requests that were given up at once")
    }

    fn cost(&mut self, cost: u32, text: &'static str) -> Result<(), Violation> {
        self.0 = self.0.saturating_add(cost);
        if self.0 <= MOST {
            return Ok(());
        }
        Err(Violation { code: ResetReason::ENHANCE_YOUR_CALM, text })
    }
}
