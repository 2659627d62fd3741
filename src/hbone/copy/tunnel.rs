//! Between an application's socket and a stream of a tunnel.
//!
//! What the application sends is read straight into frames of the tunnel. What comes for it goes to its socket as the tunnel
//! is read, without waking the task of the connection; that one drains what the socket did not take, and ends the connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::{
    Application, Beat, Closer, CopyError, Cut, HalfClosed, Meter, Options, Outcome, READ_MIN, next_read,
    pending_error, reset_on_close,
};
use crate::budget::{Budget, Hold};
use crate::code::ResetReason;
use crate::error::StreamError;
use crate::link::Fill;
use crate::sink::Sink;
use crate::stream::Stream;

/// Largest read from an application, in bytes: sixteen full records.
const READ_MAX: usize = 256 << 10;
/// Bytes of one application that are taken before others get a turn.
const READ_PER_TURN: usize = 256 << 10;

/// Copies between `app`, the socket of the application that `whose` names, and `stream`, which leads to the other one.
pub async fn tunnel<C: Future<Output = Cut> + Send>(
    app: TcpStream,
    whose: Application,
    stream: Stream,
    meter: Arc<dyn Meter>,
    options: Options<C>,
) -> Outcome {
    reset_on_close(&app, true);
    let mut copy = Copy {
        app: Arc::new(app),
        whose,
        stream,
        up: Up { open: true, want: READ_MIN, bytes: 0, blocked: false },
        down: Down { open: true, seen: 0 },
        meter,
        beat: Beat::default(),
        half_closed: HalfClosed::default(),
        closer: None,
    };
    copy.attach(&options.budget);
    let mut cut = pin!(options.cut);
    let end = poll_fn(|cx| {
        if let Poll::Ready(cut) = cut.as_mut().poll(cx) {
            return Poll::Ready(Err(CopyError::Cut(cut)));
        }
        copy.poll(cx, options.half_close_idle)
    })
    .await;
    copy.finish(end)
}

struct Copy {
    app: Arc<TcpStream>,
    whose: Application,
    stream: Stream,
    meter: Arc<dyn Meter>,
    up: Up,
    down: Down,
    beat: Beat,
    half_closed: HalfClosed,
    closer: Option<Closer>,
}

/// From the application into the stream.
struct Up {
    open: bool,
    /// Size of the next read.
    want: usize,
    bytes: u64,
    /// The tunnel has no room, so nobody reads the socket.
    blocked: bool,
}

/// From the stream to the application.
struct Down {
    open: bool,
    /// Bytes that were delivered when the connection was last looked at.
    seen: u64,
}

/// What stands between the stream and the application's socket.
enum Drained {
    /// All that came was taken, and nothing more comes.
    End,
    /// The socket takes no more, or nothing is there.
    Waiting,
}

impl Copy {
    /// From here on what comes in the stream goes to the application's socket.
    fn attach(&self, budget: &Arc<Budget>) {
        let (app, meter, hold) =
            (Arc::clone(&self.app), Arc::clone(&self.meter), Hold::new(Arc::clone(budget)));
        let mut core = self.stream.lock();
        if let Some(entry) = core.mux.stream(self.stream.id()) {
            entry.sink = Some(Sink::new(app, self.whose, meter, hold, entry.inbox.len()));
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        idle: Option<std::time::Duration>,
    ) -> Poll<Result<(), CopyError>> {
        if self.down.open {
            if let Poll::Ready(Err(error)) = self.poll_down(cx) {
                return Poll::Ready(Err(error));
            }
        } else if let Poll::Ready(error) = self.stream.poll_error(cx)
            && self.up.open
        {
            // Once the peer has finished nothing more is received, so only this tells that it resets.
            return Poll::Ready(Err(self.stream_error(error)));
        }
        if self.up.open
            && let Poll::Ready(Err(error)) = self.poll_up(cx)
        {
            return Poll::Ready(Err(error));
        }
        let half = self.up.open != self.down.open;
        if !self.up.open && !self.down.open {
            return Poll::Ready(Ok(()));
        }
        if half {
            self.half_closed.check(true, None)?;
        }
        if half || self.up.blocked {
            let sooner = if half { idle } else { None };
            if self.beat.poll(cx, sooner).is_ready() {
                if let Some(error) = pending_error(&self.app) {
                    return Poll::Ready(Err(self.socket_error(error)));
                }
                let delivered = self.delivered();
                if delivered != self.down.seen {
                    self.down.seen = delivered;
                    self.half_closed.moved();
                }
                self.half_closed.check(half, idle)?;
            }
        }
        Poll::Pending
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CopyError>> {
        let mut left = READ_PER_TURN;
        loop {
            // First something to read, then room for it: an idle stream takes its place in no queue.
            self.up.blocked = false;
            if let Err(error) = ready!(self.app.poll_read_ready(cx)) {
                return Poll::Ready(Err(self.socket_error(error)));
            }
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let (id, want) = (self.stream.id(), self.up.want.min(left));
            let mut core = self.stream.lock();
            let room = core.room(id, want <= READ_MIN);
            let filled = match room {
                Ok(0) => {
                    drop(core);
                    self.up.blocked = true;
                    return Poll::Pending;
                }
                Ok(room) => core.fill(id, &self.app, room.min(want)),
                Err(error) => {
                    drop(core);
                    return Poll::Ready(Err(self.stream_error(error)));
                }
            };
            drop(core);
            match filled {
                Ok(Fill::Nothing) => {}
                Ok(Fill::Bytes(n)) => {
                    self.up.want = next_read(n, want, READ_MAX);
                    left = left.saturating_sub(n);
                    self.up.bytes += n as u64;
                    self.half_closed.moved();
                    self.whose.count(&*self.meter, n);
                }
                Ok(Fill::End) => {
                    self.closer.get_or_insert(self.whose.closer());
                    self.up.open = false;
                    self.half_closed.moved();
                    let finished = self.stream.finish();
                    return Poll::Ready(finished.map_err(|error| self.stream_error(error)));
                }
                Err(error) => return Poll::Ready(Err(self.socket_error(error))),
            }
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CopyError>> {
        match self.drain(cx)? {
            Drained::Waiting => Poll::Pending,
            Drained::End => {
                if let Err(error) = SockRef::from(&*self.app).shutdown(std::net::Shutdown::Write) {
                    return Poll::Ready(Err(self.socket_error(error)));
                }
                self.down.open = false;
                self.half_closed.moved();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Gives the application what waits for it.
    fn drain(&mut self, cx: &mut Context<'_>) -> Result<Drained, CopyError> {
        let id = self.stream.id();
        let mut guard = self.stream.lock();
        loop {
            let core = &mut *guard;
            let Some(entry) = core.mux.stream(id) else {
                drop(guard);
                return Err(self.stream_error(StreamError::Closed));
            };
            entry.register(cx);
            if entry.received_end {
                self.closer.get_or_insert(self.whose.other().closer());
            }
            let Some(sink) = &mut entry.sink else { return Ok(Drained::Waiting) };
            if let Some(error) = sink.failed() {
                drop(guard);
                return Err(self.socket_error(error));
            }
            if sink.doomed() {
                return Err(CopyError::Budget { hop: self.whose.hop() });
            }
            if entry.inbox.is_empty() && entry.received_end && entry.reset.is_none() {
                return Ok(Drained::End);
            }
            let empty = entry.inbox.is_empty();
            if let Some(error) = core.stream_error(id) {
                drop(guard);
                return Err(self.stream_error(error));
            }
            if empty {
                return Ok(Drained::Waiting);
            }
            let writable = self.app.poll_write_ready(cx);
            let Some(entry) = core.mux.stream(id) else { continue };
            let Some(sink) = &mut entry.sink else { continue };
            match writable {
                Poll::Pending => {
                    sink.stop(cx);
                    if !sink.doomed() {
                        return Ok(Drained::Waiting);
                    }
                }
                Poll::Ready(Err(error)) => {
                    drop(guard);
                    return Err(self.socket_error(error));
                }
                Poll::Ready(Ok(())) => {
                    let taken = sink.drain(&mut entry.inbox);
                    if taken > 0 {
                        core.mux.taken(id, taken, &mut core.out);
                        core.wake_driver();
                    }
                }
            }
        }
    }

    fn delivered(&self) -> u64 {
        let mut core = self.stream.lock();
        core.mux
            .stream(self.stream.id())
            .and_then(|entry| entry.sink.as_ref())
            .map_or(self.down.seen, Sink::delivered)
    }

    fn socket_error(&mut self, error: io::Error) -> CopyError {
        self.closer.get_or_insert(self.whose.closer());
        CopyError::Socket { hop: self.whose.hop(), error }
    }

    fn stream_error(&mut self, error: StreamError) -> CopyError {
        // A reset comes from the other application or its proxy; a tunnel that failed is nobody's wish.
        let closer =
            if matches!(error, StreamError::Reset(_)) { self.whose.other().closer() } else { Closer::Proxy };
        self.closer.get_or_insert(closer);
        CopyError::Stream(error)
    }

    fn finish(mut self, end: Result<(), CopyError>) -> Outcome {
        match &end {
            Ok(()) => reset_on_close(&self.app, false),
            // RFC 9113, 8.5: what TCP calls a reset.
            Err(CopyError::Socket { .. }) => self.stream.reset(ResetReason::CONNECT_ERROR),
            Err(CopyError::Budget { .. }) => self.stream.reset(ResetReason::ENHANCE_YOUR_CALM),
            Err(_) => self.stream.reset(ResetReason::CANCEL),
        }
        let (up, down) = (self.up.bytes, self.delivered());
        let (sent, received) = match self.whose {
            Application::Client => (up, down),
            Application::Server => (down, up),
        };
        Outcome { sent, received, closed_by: self.closer.unwrap_or(Closer::Proxy), end }
    }
}
