//! TLS over a TCP socket, shaped for HTTP/2: it reads the socket in large pieces, gathers what HTTP/2 writes, and leaves
//! the socket alone until the driver of the tunnel flushes, once after each turn.
//!
//! `h2` flushes its transport after every response and every window update. Each flush that reaches the socket is a
//! system call and a TLS record; the system calls are most of what a request costs. So [`Transport`], which `h2` owns,
//! answers a flush at once, and [`Wire`], which the driver keeps, does the real one.

use std::cell::Cell;
use std::io::{self, BufRead, IoSlice, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One read from the socket, in bytes.
const READ: usize = 256 << 10;
/// Bytes read from the socket in one turn, so that the streams' tasks run and take what came before more comes.
const READ_PER_TURN: usize = 512 << 10;
/// Ciphertext fed to rustls at a time: a bit more than one record, since it buffers no more than that.
const FEED: usize = 16 << 10;
/// Writes up to this size are gathered into one TLS record.
const GATHER: usize = 16 << 10;
/// Ciphertext that waits for the socket. Past it HTTP/2 is held off, and through its windows the applications.
const HIGH_WATER: usize = 256 << 10;

thread_local! {
    /// The read buffer, shared by all tunnels of a thread: a tunnel keeps it only while ciphertext is left in it.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The end that `h2` owns.
#[derive(Debug)]
pub(crate) struct Transport(Arc<Mutex<Core>>);

/// The end that the driver keeps.
#[derive(Debug)]
pub(crate) struct Wire(Arc<Mutex<Core>>);

#[derive(Debug)]
struct Core {
    io: TcpStream,
    tls: rustls::Connection,
    inbox: Inbox,
    /// Plaintext that is gathered for the next record.
    plain: Vec<u8>,
    /// About how many bytes of ciphertext wait in rustls.
    sealed: usize,
    /// Whether flushes are left to the driver. Off during the handshake, when there is no driver yet.
    deferred: bool,
    /// What may still be read in this turn.
    read_left: usize,
    /// What TLS said when it failed: HTTP/2 keeps only the text of it.
    failed: Option<rustls::Error>,
    /// Bytes read since the start; any growth proves that the peer lives.
    read_total: u64,
}

/// Ciphertext that was read and not yet decrypted.
#[derive(Debug, Default)]
struct Inbox {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

/// Makes both ends of a transport from a socket and a TLS connection whose handshake is done.
pub(crate) fn transport(io: TcpStream, mut tls: rustls::Connection) -> (Transport, Wire) {
    // This module bounds what waits, by HIGH_WATER; rustls' own limit would make short writes of long ones.
    tls.set_buffer_limit(None);
    let core = Core {
        io,
        tls,
        inbox: Inbox::default(),
        plain: Vec::new(),
        sealed: 0,
        deferred: false,
        read_left: READ_PER_TURN,
        failed: None,
        read_total: 0,
    };
    let core = Arc::new(Mutex::new(core));
    (Transport(Arc::clone(&core)), Wire(core))
}

fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    // Both ends live in one task, so nothing ever waits here; a panic while it was held ended that task.
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    /// Starts a turn: reading may begin anew, and from the first turn on flushes wait for [`Self::poll_flush`].
    pub(crate) fn begin_turn(&self) {
        let mut core = lock(&self.0);
        core.deferred = true;
        core.read_left = READ_PER_TURN;
    }

    /// Writes what the turn left behind. Pending: the socket is full, and the task is woken when it takes more.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_write_out(cx)
    }

    /// What TLS said, if it failed.
    pub(crate) fn tls_error(&self) -> Option<rustls::Error> {
        lock(&self.0).failed.clone()
    }

    /// Bytes read from the peer so far.
    pub(crate) fn read_total(&self) -> u64 {
        lock(&self.0).read_total
    }
}

impl Core {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            match self.tls.reader().fill_buf() {
                // The peer said goodbye: a clean end.
                Ok([]) => return Poll::Ready(Ok(())),
                Ok(plain) => {
                    let taken = plain.len().min(buf.remaining());
                    buf.put_slice(&plain[..taken]);
                    self.tls.reader().consume(taken);
                    if buf.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if buf.filled().len() == before => return Poll::Ready(Err(error)),
                Err(_) => return Poll::Ready(Ok(())),
            }
            if self.inbox.start < self.inbox.end {
                self.decrypt(cx)?;
            } else if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            } else {
                ready!(self.poll_fill(cx))?;
            }
        }
    }

    /// Feeds rustls from the inbox and has it decrypt what is whole.
    fn decrypt(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut fed = 0;
        while fed < FEED && self.inbox.start < self.inbox.end {
            let mut rest = self.inbox.rest();
            match self.tls.read_tls(&mut rest) {
                Ok(0) => {
                    // After the peer's goodbye nothing more is taken.
                    self.inbox.clear();
                    break;
                }
                Ok(n) => {
                    fed += n;
                    self.inbox.start += n;
                }
                // Its buffer is full of whole records: they are decrypted below.
                Err(_) if fed > 0 => break,
                Err(error) => return Err(error),
            }
        }
        if self.inbox.start == self.inbox.end {
            self.inbox.clear();
        }
        self.tls.process_new_packets().map(drop).map_err(|error| {
            // The alert that says why should reach the peer; whether it can is not waited for.
            let _ = self.poll_write_out(cx);
            self.failed = Some(error.clone());
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.read_left == 0 {
            // The turn has read its share: others first, then this task again.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut buffer = SPARE.take().unwrap_or_else(|| vec![0; READ].into_boxed_slice());
        let mut read = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut read);
        let n = read.filled().len();
        match polled {
            Poll::Ready(Ok(())) if n > 0 => {
                self.read_left = self.read_left.saturating_sub(n);
                self.read_total += n as u64;
                self.inbox = Inbox { buffer: Some(buffer), start: 0, end: n };
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(())) => {
                SPARE.set(Some(buffer));
                // Tells rustls about the end; its reader then knows whether it was announced.
                self.tls.read_tls(&mut io::empty())?;
            }
            other => {
                SPARE.set(Some(buffer));
                return other;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.sealed + self.plain.len() >= HIGH_WATER {
            // Pending or not: what counts is whether there is room now.
            if let Poll::Ready(result) = self.poll_write_out(cx) {
                result?;
            }
            if self.sealed >= HIGH_WATER {
                return Poll::Pending;
            }
        }
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.plain.len() + total > GATHER {
            self.seal()?;
        }
        if total < GATHER / 2 {
            bufs.iter().for_each(|buf| self.plain.extend_from_slice(buf));
            return Poll::Ready(Ok(total));
        }
        let written = self.tls.writer().write_vectored(bufs)?;
        self.sealed += written;
        Poll::Ready(Ok(written))
    }

    /// Makes a TLS record of what was gathered.
    fn seal(&mut self) -> io::Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        self.tls.writer().write_all(&self.plain)?;
        self.sealed += self.plain.len();
        self.plain.clear();
        Ok(())
    }

    /// Seals what was gathered and writes until rustls has nothing left or the socket is full.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seal()?;
        while self.tls.wants_write() {
            let mut socket = Socket { io: &mut self.io, cx };
            match self.tls.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.sealed = self.sealed.saturating_sub(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.sealed = 0;
        Poll::Ready(Ok(()))
    }
}

impl Inbox {
    fn rest(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    fn clear(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            SPARE.set(Some(buffer));
        }
        (self.start, self.end) = (0, 0);
    }
}

/// The socket as rustls wants it: a writer that says `WouldBlock`.
struct Socket<'a, 'b> {
    io: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.io).poll_write_vectored(self.cx, bufs) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = lock(&self.0);
        if core.deferred { Poll::Ready(Ok(())) } else { core.poll_write_out(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = lock(&self.0);
        core.seal()?;
        core.tls.send_close_notify();
        ready!(core.poll_write_out(cx))?;
        Pin::new(&mut core.io).poll_shutdown(cx)
    }
}
