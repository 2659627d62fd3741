//! The bound on what a peer makes this side do for nothing.

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

    /// A frame came that carries nothing. False: it was one too many.
    #[must_use]
    pub(super) fn idle(&mut self) -> bool {
        self.cost(1)
    }

    /// A request was given up unseen. False: it was one too many.
    #[must_use]
    pub(super) fn given_up(&mut self) -> bool {
        self.cost(GIVEN_UP)
    }

    fn cost(&mut self, cost: u32) -> bool {
        self.0 = self.0.saturating_add(cost);
        self.0 <= MOST
    }
}
