//! One stream as its connection sees it: its state, its windows, and what arrived and was not taken.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

use crate::code::ResetReason;
use crate::head::Fields;
use crate::sink::Sink;
use crate::waker::register;

/// Pieces that arrive while others wait are copied together into chunks of about this size, in bytes: what waits costs
/// what it weighs, however small its frames were.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Entry {
    /// What the peer lets us send. Negative after SETTINGS that took back what was used already (RFC 9113, 6.9.2).
    pub(crate) send: i64,
    /// What the peer may still send.
    pub(super) receive: i64,
    /// What was taken by the reader and not yet told to the peer.
    pub(super) credit: u32,
    /// This side finished its direction.
    pub(crate) sent_end: bool,
    /// The peer finished its direction.
    pub(crate) received_end: bool,
    /// The stream was reset.
    pub(crate) reset: Option<Reset>,
    /// It no longer counts as open.
    pub(super) settled: bool,
    /// Headers that nobody has looked at: of the request at the server, of the answer at the client.
    pub(crate) head: Option<Fields>,
    /// The first headers came.
    pub(super) headed: bool,
    /// What arrived and was not taken.
    pub(crate) inbox: Inbox,
    /// The application that bytes go to at once.
    pub(crate) sink: Option<Sink>,
    /// The task that owns the stream.
    waker: Option<Waker>,
    /// It waits for room in the tunnel.
    pub(super) waiting: bool,
}

/// How a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// By the peer.
    Peer(ResetReason),
    /// By this side.
    Own,
}

impl Entry {
    pub(super) fn new(send: i64, receive: i64) -> Self {
        Self {
            send,
            receive,
            credit: 0,
            sent_end: false,
            received_end: false,
            reset: None,
            settled: false,
            head: None,
            headed: false,
            inbox: Inbox::default(),
            sink: None,
            waker: None,
            waiting: false,
        }
    }

    pub(super) fn closed(&self) -> bool {
        self.reset.is_some() || (self.sent_end && self.received_end)
    }

    /// The task to wake when anything happens to the stream.
    pub(crate) fn register(&mut self, cx: &Context<'_>) {
        register(&mut self.waker, cx);
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    chunks: VecDeque<Bytes>,
    /// What comes after `chunks`.
    tail: BytesMut,
    len: usize,
}

impl Inbox {
    /// Bytes in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.tail.extend_from_slice(bytes);
        if self.tail.len() >= CHUNK {
            self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// The first bytes; `None` when there are none.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let bytes = self.chunks.pop_front().or_else(|| {
            let tail = std::mem::take(&mut self.tail);
            (!tail.is_empty()).then(|| tail.freeze())
        })?;
        self.len -= bytes.len();
        Some(bytes)
    }

    /// The first chunks, as many as `slices` takes; how many these were.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let all = self.chunks.iter().map(|chunk| &chunk[..]).chain([&self.tail[..]]);
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(all.filter(|chunk| !chunk.is_empty())) {
            *slice = std::io::IoSlice::new(chunk);
            used += 1;
        }
        used
    }

    /// Takes the first `n` bytes away.
    pub(crate) fn advance(&mut self, mut n: usize) {
        self.len -= n;
        while n > 0 {
            let Some(front) = self.chunks.front_mut() else {
                let _ = self.tail.split_to(n);
                break;
            };
            if n < front.len() {
                let _ = front.split_to(n);
                return;
            }
            n -= front.len();
            self.chunks.pop_front();
        }
        if self.len == 0 {
            // An idle stream holds no memory.
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_leave_as_they_came(pieces in proptest::collection::vec((0..40_000usize, 0..50_000usize), 1..20)) {
            let (mut inbox, mut next_in, mut next_out) = (Inbox::default(), 0u8, 0u8);
            for (push, take) in pieces {
                let bytes: Vec<u8> = (0..push).map(|_| { next_in = next_in.wrapping_add(1); next_in }).collect();
                inbox.push(&bytes);
                let take = take.min(inbox.len());
                let mut slices = [std::io::IoSlice::new(&[]); 8];
                let used = inbox.slices(&mut slices);
                let seen: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(take).collect();
                let take = seen.len();
                for byte in seen {
                    next_out = next_out.wrapping_add(1);
                    prop_assert_eq!(byte, next_out);
                }
                inbox.advance(take);
            }
            while let Some(bytes) = inbox.pop() {
                for byte in bytes {
                    next_out = next_out.wrapping_add(1);
                    prop_assert_eq!(byte, next_out);
                }
            }
            prop_assert_eq!(next_in, next_out);
            prop_assert!(inbox.is_empty());
        }
    }
}
