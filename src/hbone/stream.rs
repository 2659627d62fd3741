//! One stream of a tunnel: bytes both ways with backpressure, half-close as END_STREAM, and RST_STREAM for all else.

use std::future::poll_fn;
use std::sync::MutexGuard;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::code::ResetReason;
use crate::error::StreamError;
use crate::link::{Core, Link};
use crate::{client, server};

/// A stream that both sides agreed on.
///
/// Dropped before both directions ended cleanly, it resets the stream with CANCEL: the peer never takes a truncated
/// stream for a finished one.
pub struct Stream {
    // The handle goes before the permit: whoever sees the count at zero finds no stream left.
    handle: Handle,
    _permit: Permit,
}

/// A stream of a link, with or without an answer; dropped, it is released.
#[derive(Debug)]
pub(crate) struct Handle {
    link: Link,
    id: u32,
}

impl Handle {
    pub(crate) fn new(link: Link, id: u32) -> Self {
        Self { link, id }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.link.lock()
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut guard = self.link.lock();
        let core = &mut *guard;
        let sink = core.mux.stream(self.id).and_then(|entry| entry.sink.take());
        core.mux.release(self.id, &mut core.out);
        core.wake_driver();
        drop(guard);
        // The application's socket may close here: not under the lock.
        drop(sink);
    }
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
        f.debug_struct("Stream").field("id", &self.handle.id).finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(handle: Handle, permit: Permit) -> Self {
        Self { handle, _permit: permit }
    }

    /// The next bytes of the peer; `None` when the peer finished its direction. Taking them opens the window again.
    pub async fn data(&mut self) -> Option<Result<Bytes, StreamError>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Sends `data`, in parts as the windows allow; returns when the last part is on its way.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        while !data.is_empty() {
            poll_fn(|cx| self.poll_send(cx, &mut data)).await?;
        }
        Ok(())
    }

    /// Ends this side's direction (END_STREAM). The peer may go on.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        let id = self.handle.id;
        let mut guard = self.lock();
        if let Some(error) = guard.stream_error(id) {
            return Err(error);
        }
        let core = &mut *guard;
        core.mux.finish(id, &mut core.out);
        core.wake_driver();
        Ok(())
    }

    /// Ends both directions at once (RST_STREAM). What waits to be sent is lost.
    pub fn reset(&mut self, reason: ResetReason) {
        let id = self.handle.id;
        let mut guard = self.lock();
        let core = &mut *guard;
        core.mux.reset(id, reason, &mut core.out);
        core.wake_driver();
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let id = self.handle.id;
        let mut guard = self.lock();
        let core = &mut *guard;
        let Some(entry) = core.mux.stream(id) else { return Poll::Ready(Some(Err(StreamError::Closed))) };
        entry.register(cx);
        let bytes = entry.inbox.pop();
        let ended = entry.received_end;
        if let Some(bytes) = bytes {
            core.mux.taken(id, bytes.len(), &mut core.out);
            core.wake_driver();
            return Poll::Ready(Some(Ok(bytes)));
        }
        if ended {
            return Poll::Ready(None);
        }
        match core.stream_error(id) {
            Some(error) => Poll::Ready(Some(Err(error))),
            None => Poll::Pending,
        }
    }

    /// Sends as much as there is room for, under one lock: on another thread others may use the same windows.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), StreamError>> {
        let id = self.handle.id;
        let mut core = self.lock();
        core.register(id, cx);
        match core.room(id, false)? {
            0 => Poll::Pending,
            room => {
                core.send(id, &data.split_to(room.min(data.len())));
                Poll::Ready(Ok(()))
            }
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        let core = self.lock();
        core.mux.window(self.handle.id).is_none_or(|window| window > 0)
    }

    /// Room for at least one byte.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        let id = self.handle.id;
        let mut core = self.lock();
        core.register(id, cx);
        match core.room(id, false) {
            Ok(0) => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.handle.lock()
    }

    pub(crate) fn id(&self) -> u32 {
        self.handle.id
    }

    /// Ready when the stream can go on no more.
    pub(crate) fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.lock().poll_error(self.handle.id, cx)
    }
}
