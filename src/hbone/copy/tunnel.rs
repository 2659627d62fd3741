//! Between an application's socket and a stream of a tunnel.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::{
    Application, Beat, Closer, CopyError, Cut, HalfClosed, Meter, Options, Outcome, READ_MIN, pending_error,
    reset_on_close,
};
use crate::budget::{Budget, Hold};
use crate::error::StreamError;
use crate::stream::Stream;

/// Largest read from an application. It becomes one or a few DATA frames. Buffers of 128 KiB and more are pages that the
/// allocator takes from the kernel and gives back each time: reads of 256 KiB made bulk streams a sixth slower.
const READ_MAX: usize = 64 << 10;
/// Buffers in one vectored write to an application.
const SLICES: usize = 32;
/// A frame that arrives while others wait is copied next to them, if it is smaller than this. A slice of a few bytes
/// would keep the whole buffer alive in which it arrived.
const SMALL: usize = 16 << 10;
/// The same for an application that takes nothing at all: there memory counts, and time does not.
const SMALL_WHEN_STOPPED: usize = 64 << 10;

thread_local! {
    /// Where reads from applications land. What was read is split off and travels on without a copy; idle connections
    /// hold nothing.
    static ARENA: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Copies between `app`, the socket of the application that `whose` names, and `stream`, which leads to the other one.
pub async fn tunnel<C: Future<Output = Cut> + Send>(
    app: TcpStream,
    whose: Application,
    stream: Stream,
    meter: &(impl Meter + Sync),
    options: Options<C>,
) -> Outcome {
    reset_on_close(&app, true);
    let mut copy = Copy {
        app,
        whose,
        stream,
        meter,
        up: Up { open: true, want: READ_MIN, bytes: 0, blocked: false },
        down: Down { backlog: Backlog::new(&options.budget), received_end: false, open: true, bytes: 0 },
        beat: Beat::default(),
        half_closed: HalfClosed::default(),
        closer: None,
    };
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

struct Copy<'a, M> {
    app: TcpStream,
    whose: Application,
    stream: Stream,
    meter: &'a M,
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
    /// The windows are empty, so nobody reads the socket.
    blocked: bool,
}

/// From the stream to the application.
struct Down {
    backlog: Backlog,
    received_end: bool,
    open: bool,
    bytes: u64,
}

impl<M: Meter> Copy<'_, M> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        idle: Option<std::time::Duration>,
    ) -> Poll<Result<(), CopyError>> {
        if self.down.open
            && let Poll::Ready(Err(error)) = self.poll_down(cx)
        {
            return Poll::Ready(Err(error));
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
                self.half_closed.check(half, idle)?;
            }
        }
        Poll::Pending
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CopyError>> {
        // Once the peer has finished nothing more is received, so only this tells that it resets.
        if self.down.received_end
            && let Poll::Ready(error) = self.stream.poll_reset(cx)
        {
            return Poll::Ready(Err(self.stream_error(error)));
        }
        loop {
            // First something to read, then room for it: an idle stream holds no part of the windows.
            self.up.blocked = false;
            if let Err(error) = ready!(self.app.poll_read_ready(cx)) {
                return Poll::Ready(Err(self.socket_error(error)));
            }
            self.up.blocked = true;
            let room = match ready!(self.stream.poll_capacity(cx, self.up.want)) {
                Ok(room) => room,
                Err(error) => return Poll::Ready(Err(self.stream_error(error))),
            };
            self.up.blocked = false;
            let limit = room.min(self.up.want);
            let read = poll_read(&mut self.app, cx, limit);
            if !matches!(&read, Poll::Ready(Ok(bytes)) if bytes.len() == limit) {
                self.stream.unreserve();
            }
            let bytes = match ready!(read) {
                Ok(bytes) => bytes,
                Err(error) => return Poll::Ready(Err(self.socket_error(error))),
            };
            if bytes.is_empty() {
                self.closer.get_or_insert(self.whose.closer());
                self.up.open = false;
                self.half_closed.moved();
                let finished = self.stream.finish();
                return Poll::Ready(finished.map_err(|error| self.stream_error(error)));
            }
            let n = bytes.len();
            self.up.want =
                if n == self.up.want { READ_MAX.min(n * 2) } else { READ_MIN.max(n.next_power_of_two()) };
            if let Err(error) = self.stream.send_now(bytes) {
                return Poll::Ready(Err(self.stream_error(error)));
            }
            self.up.bytes += n as u64;
            self.half_closed.moved();
            match self.whose {
                Application::Client => self.meter.sent(n as u64),
                Application::Server => self.meter.received(n as u64),
            }
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CopyError>> {
        loop {
            while !self.down.received_end {
                match self.stream.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) => self.down.backlog.push(data),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.stream_error(error))),
                    Poll::Ready(None) => {
                        self.down.received_end = true;
                        self.closer.get_or_insert(self.whose.other().closer());
                    }
                    Poll::Pending => break,
                }
            }
            if self.down.backlog.hold.doomed() {
                return Poll::Ready(Err(CopyError::Budget { hop: self.whose.hop() }));
            }
            if self.down.backlog.is_empty() {
                if !self.down.received_end {
                    return Poll::Pending;
                }
                if let Err(error) = ready!(Pin::new(&mut self.app).poll_shutdown(cx)) {
                    return Poll::Ready(Err(self.socket_error(error)));
                }
                self.down.open = false;
                self.half_closed.moved();
                return Poll::Ready(Ok(()));
            }
            let n = match self.down.backlog.poll_write(&mut self.app, cx) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.socket_error(error))),
                Poll::Pending => {
                    self.down.backlog.stop(cx);
                    return Poll::Pending;
                }
            };
            self.stream.release(n);
            self.down.bytes += n as u64;
            self.half_closed.moved();
            match self.whose {
                Application::Client => self.meter.received(n as u64),
                Application::Server => self.meter.sent(n as u64),
            }
        }
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
            Err(CopyError::Socket { .. }) => self.stream.reset(Reason::CONNECT_ERROR),
            Err(CopyError::Budget { .. }) => self.stream.reset(Reason::ENHANCE_YOUR_CALM),
            Err(_) => self.stream.reset(Reason::CANCEL),
        }
        let (up, down) = (self.up.bytes, self.down.bytes);
        let (sent, received) = match self.whose {
            Application::Client => (up, down),
            Application::Server => (down, up),
        };
        Outcome { sent, received, closed_by: self.closer.unwrap_or(Closer::Proxy), end }
    }
}

/// Reads at most `limit` bytes; none is the end of file.
fn poll_read(app: &mut TcpStream, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<Bytes>> {
    ARENA.with_borrow_mut(|arena| {
        if arena.capacity() < limit {
            *arena = BytesMut::with_capacity(limit.max(64 << 10));
        }
        let mut space = (&mut *arena).limit(limit);
        ready!(pin!(app.read_buf(&mut space)).poll(cx))?;
        Poll::Ready(Ok(arena.split().freeze()))
    })
}

/// What arrived on a stream and the application has not taken.
struct Backlog {
    chunks: VecDeque<Bytes>,
    /// Small frames, copied together; they come after `chunks`.
    tail: BytesMut,
    stopped: bool,
    hold: Hold,
}

impl Backlog {
    fn new(budget: &std::sync::Arc<Budget>) -> Self {
        let hold = Hold::new(std::sync::Arc::clone(budget));
        Self { chunks: VecDeque::new(), tail: BytesMut::new(), stopped: false, hold }
    }

    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty()
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.hold.add(data.len());
        let small = if self.stopped { SMALL_WHEN_STOPPED } else { SMALL };
        if data.len() < small && !self.is_empty() {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= SMALL_WHEN_STOPPED {
                self.flush_tail();
            }
        } else {
            self.flush_tail();
            self.chunks.push_back(data);
        }
    }

    fn flush_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    fn poll_write(&mut self, app: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.chunks.len() < SLICES {
            self.flush_tail();
        }
        let n = if let [only] = self.chunks.make_contiguous() {
            ready!(Pin::new(app).poll_write(cx, only))?
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                *slice = IoSlice::new(chunk);
                used += 1;
            }
            ready!(Pin::new(app).poll_write_vectored(cx, &slices[..used]))?
        };
        self.stopped = false;
        self.advance(n);
        Poll::Ready(Ok(n))
    }

    fn advance(&mut self, mut n: usize) {
        self.hold.take(n);
        while n > 0 {
            let Some(front) = self.chunks.front_mut() else { break };
            if n < front.len() {
                let _ = front.split_to(n);
                break;
            }
            n -= front.len();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && self.chunks.capacity() > SLICES {
            self.chunks = VecDeque::new();
        }
    }

    fn stop(&mut self, cx: &Context<'_>) {
        self.stopped = true;
        self.hold.stop(cx);
    }
}
