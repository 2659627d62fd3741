//! One stream of a tunnel: bytes both ways with backpressure, half-close as END_STREAM, and RST_STREAM for all else.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use crate::error::StreamError;
use crate::gate::Gate;
use crate::{client, server};

/// Largest share of the windows that one `send` asks for at a time.
const CHUNK: usize = 64 << 10;

/// A stream that both sides agreed on.
///
/// Dropped before both directions ended cleanly, it resets the stream with CANCEL: the peer never takes a truncated
/// stream for a finished one.
pub struct Stream {
    // The handles go before the permit: whoever sees the count at zero finds no stream left.
    send: SendStream<Bytes>,
    recv: RecvStream,
    gate: Arc<Gate>,
    sent_end: bool,
    received_end: bool,
    reset: bool,
    _permit: Permit,
}

/// Counts the stream on its tunnel, until it is dropped.
#[expect(dead_code, reason = "held for its drop")]
pub(crate) enum Permit {
    Client(client::Permit),
    Server(server::Permit),
}

impl From<client::Permit> for Permit {
    fn from(permit: client::Permit) -> Self {
        Self::Client(permit)
    }
}

impl From<server::Permit> for Permit {
    fn from(permit: server::Permit) -> Self {
        Self::Server(permit)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.recv.stream_id();
        f.debug_struct("Stream")
            .field("id", &id)
            .field("sent_end", &self.sent_end)
            .field("received_end", &self.received_end)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, gate: Arc<Gate>, permit: Permit) -> Self {
        Self { send, recv, gate, sent_end: false, received_end: false, reset: false, _permit: permit }
    }

    /// The next bytes of the peer; `None` when the peer finished its direction. Taking them opens the window again.
    pub async fn data(&mut self) -> Option<Result<Bytes, StreamError>> {
        let data = poll_fn(|cx| self.poll_data(cx)).await?;
        if let Ok(data) = &data {
            self.release(data.len());
        }
        Some(data)
    }

    /// Sends `data`, in parts as the windows allow; returns when the last part is on its way.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        while !data.is_empty() {
            let room = poll_fn(|cx| self.poll_capacity(cx, data.len().min(CHUNK))).await?;
            self.send_now(data.split_to(room.min(data.len())))?;
        }
        self.unreserve();
        Ok(())
    }

    /// Ends this side's direction (END_STREAM). The peer may go on.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        if !self.sent_end {
            self.send.send_data(Bytes::new(), true)?;
            self.sent_end = true;
        }
        Ok(())
    }

    /// Ends both directions at once (RST_STREAM). What waits to be sent is lost.
    pub fn reset(&mut self, reason: Reason) {
        if !self.reset {
            self.reset = true;
            self.send.send_reset(reason);
        }
    }

    /// Like [`Self::data`], without opening the window: [`Self::release`] does that, when the bytes found their reader.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        loop {
            return Poll::Ready(match ready!(self.recv.poll_data(cx)) {
                // An end may come as an empty frame; the end itself comes next.
                Some(Ok(data)) if data.is_empty() => continue,
                Some(Ok(data)) => Some(Ok(data)),
                Some(Err(error)) => Some(Err(error.into())),
                None => {
                    self.received_end = true;
                    None
                }
            });
        }
    }

    /// Lets the peer send `bytes` more.
    pub(crate) fn release(&mut self, bytes: usize) {
        // It fails only past what was received, and then there is nothing to give back.
        let _ = self.recv.flow_control().release_capacity(bytes);
    }

    /// Room for up to `want` bytes, at least one. Whatever is not used should be given back by [`Self::unreserve`]: it is
    /// taken from the window of all streams.
    pub(crate) fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<usize, StreamError>> {
        ready!(self.gate.poll_open(cx));
        self.send.reserve_capacity(want);
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.send.poll_capacity(cx)) {
                // Zero and a stale grant both mean: look again.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                // The stream is over; this knows why.
                None => {
                    return Poll::Ready(Err(match self.poll_reset(cx) {
                        Poll::Ready(error) => error,
                        Poll::Pending => StreamError::Closed,
                    }));
                }
            }
        }
    }

    pub(crate) fn unreserve(&mut self) {
        self.send.reserve_capacity(0);
    }

    /// Hands over bytes for which there is room.
    pub(crate) fn send_now(&mut self, data: Bytes) -> Result<(), StreamError> {
        Ok(self.send.send_data(data, false)?)
    }

    /// Ready when the peer reset the stream. For the time when nothing more is to be received.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(StreamError::Reset(reason)),
            Err(error) => Poll::Ready(error.into()),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let received_end = self.received_end || self.recv.is_end_stream();
        if !(self.sent_end && received_end) {
            self.reset(Reason::CANCEL);
        }
    }
}
