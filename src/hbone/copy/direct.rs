//! Between two sockets: two applications of one node, or one application and a peer outside the mesh.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{
    Application, Beat, Closer, CopyError, Cut, HalfClosed, Hop, Meter, Options, Outcome, READ_MIN, next_read,
    pending_error, reset_on_close,
};
use crate::budget::Hold;
use crate::scratch;

/// Largest read. What the other socket does not take of it is all that a connection holds.
const READ_MAX: usize = 64 << 10;

/// Copies between the socket on which the client called and the one to the server.
pub async fn direct<C: Future<Output = Cut> + Send>(
    client: TcpStream,
    server: TcpStream,
    meter: &impl Meter,
    options: Options<C>,
) -> Outcome {
    reset_on_close(&client, true);
    reset_on_close(&server, true);
    let way = |from| Way {
        from,
        open: true,
        ended: false,
        want: READ_MIN,
        bytes: 0,
        pending: Vec::new(),
        start: 0,
        hold: Hold::new(Arc::clone(&options.budget)),
    };
    let mut copy = Copy {
        client,
        server,
        up: way(Application::Client),
        down: way(Application::Server),
        beat: Beat::default(),
        half_closed: HalfClosed::default(),
        closer: None,
    };
    let mut cut = pin!(options.cut);
    let end = poll_fn(|cx| {
        if let Poll::Ready(cut) = cut.as_mut().poll(cx) {
            return Poll::Ready(Err(CopyError::Cut(cut)));
        }
        copy.poll(cx, meter, options.half_close_idle)
    })
    .await;
    if end.is_ok() {
        reset_on_close(&copy.client, false);
        reset_on_close(&copy.server, false);
    }
    let closed_by = copy.closer.unwrap_or(Closer::Proxy);
    Outcome { sent: copy.up.bytes, received: copy.down.bytes, closed_by, end }
}

struct Copy {
    client: TcpStream,
    server: TcpStream,
    up: Way,
    down: Way,
    beat: Beat,
    half_closed: HalfClosed,
    closer: Option<Closer>,
}

/// One direction.
struct Way {
    from: Application,
    open: bool,
    /// The reading end saw the end of file.
    ended: bool,
    want: usize,
    bytes: u64,
    /// Read and not yet taken by the other socket.
    pending: Vec<u8>,
    start: usize,
    hold: Hold,
}

impl Copy {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        meter: &impl Meter,
        idle: Option<Duration>,
    ) -> Poll<Result<(), CopyError>> {
        let before = self.up.bytes + self.down.bytes;
        self.step(cx, Application::Client, meter)?;
        self.step(cx, Application::Server, meter)?;
        let (up, down) = (&self.up, &self.down);
        if !up.open && !down.open {
            return Poll::Ready(Ok(()));
        }
        if up.bytes + down.bytes != before {
            self.half_closed.moved();
        }
        let half = up.open != down.open;
        self.half_closed.check(half, None)?;
        let blocked = !up.pending.is_empty() || !down.pending.is_empty();
        if (half || blocked) && self.beat.poll(cx, if half { idle } else { None }).is_ready() {
            for (socket, whose) in [(&self.client, Application::Client), (&self.server, Application::Server)]
            {
                if let Some(error) = pending_error(socket) {
                    self.closer.get_or_insert(whose.closer());
                    return Poll::Ready(Err(CopyError::Socket { hop: whose.hop(), error }));
                }
            }
            self.half_closed.check(half, idle)?;
        }
        Poll::Pending
    }
}

impl Copy {
    /// Moves what `from` sent.
    fn step(&mut self, cx: &mut Context<'_>, from: Application, meter: &impl Meter) -> Result<(), CopyError> {
        let (way, reader, writer) = match from {
            Application::Client => (&mut self.up, &mut self.client, &mut self.server),
            Application::Server => (&mut self.down, &mut self.server, &mut self.client),
        };
        if !way.open {
            return Ok(());
        }
        let polled = way.poll(cx, reader, writer, meter);
        if way.ended {
            self.closer.get_or_insert(from.closer());
        }
        if let Poll::Ready(Err(error)) = polled {
            let closer = match error.hop() {
                Hop::Client => Closer::Client,
                Hop::Server => Closer::Server,
                _ => Closer::Proxy,
            };
            self.closer.get_or_insert(closer);
            return Err(error);
        }
        Ok(())
    }
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        meter: &impl Meter,
    ) -> Poll<Result<(), CopyError>> {
        let (reader, writer) = (self.from.hop(), self.from.other().hop());
        let mut buffer = None;
        let result = loop {
            if self.hold.doomed() {
                break Poll::Ready(Err(CopyError::Budget { hop: writer }));
            }
            if self.start < self.pending.len() {
                match Pin::new(&mut *to).poll_write(cx, &self.pending[self.start..]) {
                    Poll::Ready(Ok(n)) => {
                        self.start += n;
                        self.hold.take(n);
                        self.count(n, meter);
                        if self.start == self.pending.len() {
                            (self.pending, self.start) = (Vec::new(), 0);
                        }
                        continue;
                    }
                    Poll::Ready(Err(error)) => {
                        break Poll::Ready(Err(CopyError::Socket { hop: writer, error }));
                    }
                    Poll::Pending => {
                        self.hold.stop(cx);
                        break Poll::Pending;
                    }
                }
            }
            if self.ended {
                let shutdown = Pin::new(&mut *to).poll_shutdown(cx);
                if let Poll::Ready(result) = shutdown {
                    self.open = false;
                    break Poll::Ready(result.map_err(|error| CopyError::Socket { hop: writer, error }));
                }
                break Poll::Pending;
            }
            let buffer = buffer.get_or_insert_with(scratch::take);
            let n = match poll_read(from, cx, &mut buffer[..self.want]) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(CopyError::Socket { hop: reader, error })),
                Poll::Pending => break Poll::Pending,
            };
            if n == 0 {
                self.ended = true;
                continue;
            }
            self.want = next_read(n, self.want, READ_MAX);
            let written = match Pin::new(&mut *to).poll_write(cx, &buffer[..n]) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(CopyError::Socket { hop: writer, error })),
                Poll::Pending => 0,
            };
            self.count(written, meter);
            if written < n {
                self.pending.extend_from_slice(&buffer[written..n]);
                self.hold.add(n - written);
            }
        };
        if let Some(buffer) = buffer {
            scratch::give_back(buffer);
        }
        result
    }

    fn count(&mut self, n: usize, meter: &impl Meter) {
        self.bytes += n as u64;
        self.from.count(meter, n);
    }
}

fn poll_read(from: &mut TcpStream, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut read = ReadBuf::new(buffer);
    ready!(Pin::new(from).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}
