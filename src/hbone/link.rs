//! What the driver of a tunnel and the owners of its streams share: the socket, TLS and HTTP/2, behind one lock that is never
//! contended, since all of them run on one thread.
//!
//! A turn of the driver reads the socket in large pieces, opens the records where they lie, and hands their bytes to the
//! applications at once. What turns and streams write gathers in the outbox, and leaves in one write at the end of the turn,
//! or as soon as it is worth one.

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::batch::Batch;
use crate::code::ResetReason;
use crate::config::Config;
use crate::error::{CloseReason, StreamError};
use crate::mux::{Mux, Reset, Role, Violation};
use crate::outbox::Outbox;
use crate::scratch;
use crate::sink::SLICES;
use crate::tls::{self, Established, Kernel, Opener};
use crate::transfer::transfer;
use crate::waker::register;

/// Bytes read from the socket in one turn, so that the streams' tasks run and take what came before more comes.
const READ_PER_TURN: usize = 512 << 10;
/// What waits for the socket is written when it is as much as this, without waiting for the end of the turn: the peer can
/// work on it meanwhile.
const FLUSH: usize = 32 << 10;
/// Bytes waiting for the socket past which streams that send much are held off.
const GATE: usize = 256 << 10;
/// The same for streams that send little: their bytes pass a bulk transfer's.
const GATE_SMALL: usize = 512 << 10;
/// Control frames waiting for a peer that sends but does not read, in bytes.
const MOST_CONTROL: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Link(Arc<Mutex<Core>>);

#[derive(Debug)]
pub(crate) struct Core {
    io: TcpStream,
    tls: Tls,
    pub(crate) out: Outbox,
    pub(crate) mux: Mux,
    /// The start of a record whose rest has not come.
    partial: Vec<u8>,
    driver: Option<Waker>,
    /// The driver was woken to flush.
    woken: bool,
    batch: Batch,
    /// The socket takes no more just now.
    full: bool,
    /// Bytes read since the start; any growth proves that the peer lives.
    read_total: u64,
    /// The tunnel is over.
    over: Option<Broken>,
}

struct Tls {
    opener: Opener,
    kernel: Kernel,
    /// A handshake message that is not whole.
    message: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("opener", &self.opener).finish_non_exhaustive()
    }
}

/// Why a tunnel is over.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    /// This side found the peer in breach.
    Violation(Violation),
    /// The peer said so in GOAWAY.
    Goaway(ResetReason),
    Tls(rustls::Error),
    Io(io::ErrorKind, String),
    /// The peer closed in good order.
    PeerClosed,
    /// The peer went away without a word.
    Vanished,
    /// This side ended it.
    Cut,
    /// A PING had no answer.
    Dead,
    /// This side closed in good order.
    Finished,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::Tls(tls.clone()),
            None => Self::Io(error.kind(), error.to_string()),
        }
    }
}

impl From<rustls::Error> for Broken {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

impl From<Violation> for Broken {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Violation(Violation { code, text }) => write!(f, "the peer broke HTTP/2: {text} ({code})"),
            Self::Goaway(code) => write!(f, "the peer ended it: {code}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Io(_, text) => f.write_str(text),
            Self::PeerClosed => f.write_str("the peer closed it"),
            Self::Vanished => f.write_str("the peer went away without closing it"),
            Self::Cut => f.write_str("it was cut"),
            Self::Dead => f.write_str("the peer did not answer a PING"),
            Self::Finished => f.write_str("it was no longer needed"),
        }
    }
}

impl Broken {
    pub(crate) fn close_reason(&self) -> CloseReason {
        match self {
            Self::PeerClosed | Self::Vanished | Self::Goaway(ResetReason::NO_ERROR) => {
                CloseReason::PeerClosed
            }
            Self::Cut => CloseReason::Cut,
            Self::Dead => CloseReason::Dead,
            Self::Finished => CloseReason::Finished,
            other => CloseReason::Failed(other.to_string()),
        }
    }
}

/// What a read of an application brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Bytes, which are on their way.
    Bytes(usize),
    /// The end of file.
    End,
    /// Nothing now.
    Nothing,
}

impl Link {
    /// A tunnel over TLS whose handshake is done. Its own greeting is written by the first turn.
    pub(crate) fn new(io: TcpStream, tls: Established, role: Role, config: &Config) -> Result<Self, Broken> {
        let mut core = Core {
            io,
            out: Outbox::new(tls.sealer),
            tls: Tls { opener: tls.opener, kernel: tls.kernel, message: Vec::new() },
            mux: Mux::new(role, config),
            partial: Vec::new(),
            driver: None,
            woken: false,
            batch: Batch::default(),
            full: false,
            read_total: 0,
            over: None,
        };
        core.mux.begin(config, &mut core.out);
        let mut run = Run::default();
        core.plain(&tls.early, &mut run)?;
        core.deliver(&mut run);
        // What came with the handshake's end is read on like all that follows.
        let mut rest = tls.rest;
        core.ciphertext(&mut rest)?;
        Ok(Self(Arc::new(Mutex::new(core))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Reads what there is, up to a turn's share, and writes what is to be written. Pending: all of that is done, and `cx` is
    /// woken when there is more. Ready: the tunnel is over.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if let Some(over) = &self.over {
            return Poll::Ready(over.clone());
        }
        register(&mut self.driver, cx);
        self.woken = false;
        let turn = self.read(cx).and_then(|()| {
            let pending = self.out.pending();
            if pending < FLUSH && self.batch.waits(pending > 0, cx) { Ok(()) } else { self.write(cx) }
        });
        match turn {
            Ok(()) => Poll::Pending,
            Err(broken) => Poll::Ready(self.end(broken)),
        }
    }

    /// Ends the tunnel: its streams get their error, and what can still be told to the peer is told.
    pub(crate) fn end(&mut self, broken: Broken) -> Broken {
        if let Some(over) = &self.over {
            return over.clone();
        }
        match &broken {
            Broken::Violation(Violation { code, .. }) => self.mux.leave(*code, &mut self.out),
            Broken::Finished | Broken::PeerClosed => self.mux.leave(ResetReason::NO_ERROR, &mut self.out),
            Broken::Cut => self.mux.leave(ResetReason::CANCEL, &mut self.out),
            _ => {}
        }
        match &broken {
            Broken::Tls(rustls::Error::AlertReceived(_))
            | Broken::Io(..)
            | Broken::Vanished
            | Broken::Dead => {}
            Broken::Tls(error) => self.out.record(tls::content::ALERT, &[2, alert(error)]),
            // close_notify: what came before was all.
            _ => self.out.record(tls::content::ALERT, &[1, 0]),
        }
        // One try: whoever does not read now is not waited for.
        let _ = self.try_flush();
        let _ = SockRef::from(&self.io).shutdown(std::net::Shutdown::Write);
        self.over = Some(broken.clone());
        self.mux.wake_all();
        broken
    }

    /// Why the tunnel is over, if it is.
    pub(crate) fn over(&self) -> Option<&Broken> {
        self.over.as_ref()
    }

    /// Has `cx` woken when anything happens to the stream.
    pub(crate) fn register(&mut self, id: u32, cx: &Context<'_>) {
        if let Some(entry) = self.mux.stream(id) {
            entry.register(cx);
        }
    }

    /// Ready when the stream can go on no more.
    pub(crate) fn poll_error(&mut self, id: u32, cx: &Context<'_>) -> Poll<StreamError> {
        self.register(id, cx);
        self.stream_error(id).map_or(Poll::Pending, Poll::Ready)
    }

    /// The error of a stream that can go on no more; `None` while it can.
    pub(crate) fn stream_error(&mut self, id: u32) -> Option<StreamError> {
        let reset = self.mux.stream(id).and_then(|entry| entry.reset);
        match reset {
            Some(Reset::Peer(code)) => Some(StreamError::Reset(code)),
            Some(Reset::Own) => Some(StreamError::Closed),
            None => self.over.as_ref().map(|over| StreamError::Tunnel(over.to_string())),
        }
    }

    pub(crate) fn read_total(&self) -> u64 {
        self.read_total
    }

    /// Room for `stream` to send: what its windows and the tunnel's socket take now. Zero: it is woken when there is some.
    pub(crate) fn room(&mut self, id: u32, small: bool) -> Result<usize, StreamError> {
        let Some(window) = self.mux.window(id).filter(|_| self.over.is_none()) else {
            return Err(self.stream_error(id).unwrap_or(StreamError::Closed));
        };
        let gate = if small { GATE_SMALL } else { GATE };
        if window == 0 || self.out.pending() >= gate {
            self.mux.wait(id);
            return Ok(0);
        }
        Ok(window)
    }

    /// Reads up to `want` bytes of `app` straight into frames of the stream. `want` is no more than [`Self::room`] said.
    pub(crate) fn fill(&mut self, id: u32, app: &TcpStream, want: usize) -> io::Result<Fill> {
        let result = self.out.read_data(id, want, |slices| {
            let room = slices.iter().map(|slice| slice.len()).sum();
            transfer(app, Interest::READABLE, room, |mut socket| match slices {
                [slice] => socket.read(slice),
                slices => socket.read_vectored(slices),
            })
        });
        match result {
            Ok(0) => Ok(Fill::End),
            Ok(n) => {
                self.mux.sent(id, n);
                self.sent_some();
                Ok(Fill::Bytes(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Fill::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Sends bytes of the stream, no more than [`Self::room`] said.
    pub(crate) fn send(&mut self, id: u32, bytes: &[u8]) {
        self.out.data(id, bytes);
        self.mux.sent(id, bytes.len());
        self.sent_some();
    }

    /// Frames were added: they leave now if they are many, and else at the end of the turn.
    pub(crate) fn sent_some(&mut self) {
        self.batch.add();
        // An error shows again in the driver's turn.
        let flushed = self.flush_when_worth();
        if flushed.is_err() || self.out.pending() > 0 {
            self.wake_driver();
        }
    }

    /// Writes what waits where it is as much as is worth a write, and the socket takes any.
    fn flush_when_worth(&mut self) -> io::Result<()> {
        if self.out.pending() >= FLUSH && !self.full {
            let flushed = self.try_flush();
            self.full = !matches!(flushed, Ok(true));
            flushed?;
        }
        Ok(())
    }

    pub(crate) fn wake_driver(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.out.worn() {
            self.rekey()?;
        }
        loop {
            if self.try_flush()? {
                self.full = false;
                self.mux.wake_waiting();
                return Ok(());
            }
            self.full = true;
            if self.out.pending() < GATE / 2 {
                self.mux.wake_waiting();
            }
            if self.io.poll_write_ready(cx)?.is_pending() {
                return Ok(());
            }
        }
    }

    fn try_flush(&mut self) -> io::Result<bool> {
        let io = &self.io;
        self.out
            .flush(|bytes| transfer(io, Interest::WRITABLE, bytes.len(), |mut socket| socket.write(bytes)))
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let mut left = READ_PER_TURN;
        while self.io.poll_read_ready(cx)?.is_ready() {
            if left == 0 {
                // The turn has read its share: others first, then this task again.
                cx.waker().wake_by_ref();
                break;
            }
            let mut buffer = scratch::take();
            let result = self.read_into(&mut buffer);
            scratch::give_back(buffer);
            match result? {
                Some(n) => left = left.saturating_sub(n),
                None => continue,
            }
            self.flush_when_worth()?;
        }
        Ok(())
    }

    /// One read, and all that it brings. `None`: nothing was there.
    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Broken> {
        let start = self.partial.len();
        buffer[..start].copy_from_slice(&self.partial);
        let free = &mut buffer[start..];
        let room = free.len();
        let read = transfer(&self.io, Interest::READABLE, room, |mut socket| socket.read(free));
        let read = match read {
            Ok(0) => return Err(Broken::Vanished),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.read_total += read as u64;
        self.partial.clear();
        self.ciphertext(&mut buffer[..start + read])?;
        Ok(Some(read))
    }

    /// Opens all whole records of `bytes`, and keeps what is left.
    fn ciphertext(&mut self, bytes: &mut [u8]) -> Result<(), Broken> {
        let mut run = Run::default();
        let mut rest = bytes;
        let result = loop {
            let length = match Opener::length(rest) {
                Ok(Some(length)) if length <= rest.len() => length,
                Ok(_) => break Ok(()),
                Err(error) => break Err(error.into()),
            };
            let (record, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            match self.tls.opener.open(record) {
                Ok((tls::content::DATA, plain)) => {
                    if let Err(broken) = self.plain(plain, &mut run) {
                        break Err(broken);
                    }
                }
                Ok((kind, content)) => {
                    if let Err(broken) = self.other_record(kind, content) {
                        break Err(broken);
                    }
                }
                Err(error) => break Err(error.into()),
            }
        };
        // What came before the end, or the error, reaches its applications.
        self.deliver(&mut run);
        self.partial.extend_from_slice(rest);
        if self.partial.is_empty() && self.partial.capacity() > 0 {
            // An idle tunnel holds no memory.
            self.partial = Vec::new();
        }
        result
    }

    fn plain<'a>(&mut self, mut plain: &'a [u8], run: &mut Run<'a>) -> Result<(), Broken> {
        while let Some((stream, bytes)) = self.mux.receive(&mut plain, &mut self.out)? {
            if run.stream != stream || run.pieces.len() == SLICES {
                self.deliver(run);
                run.stream = stream;
            }
            run.pieces.push(IoSlice::new(bytes));
        }
        if self.out.pending() > MOST_CONTROL + GATE_SMALL {
            let text = "the peer reads no answers to what it sends";
            return Err(Violation { code: ResetReason::ENHANCE_YOUR_CALM, text }.into());
        }
        Ok(())
    }

    /// Bytes of one stream go to its application at once, or to those who wait for them.
    fn deliver(&mut self, run: &mut Run<'_>) {
        if run.pieces.is_empty() {
            return;
        }
        let total: usize = run.pieces.iter().map(|piece| piece.len()).sum();
        let taken = match self.mux.stream(run.stream) {
            Some(entry) => {
                let last = entry.received_end && entry.reset.is_none();
                let taken = match &mut entry.sink {
                    Some(sink) => sink.deliver(&run.pieces, last, &mut entry.inbox),
                    None => {
                        run.pieces.iter().for_each(|piece| entry.inbox.push(piece));
                        0
                    }
                };
                if taken < total {
                    entry.wake();
                }
                taken
            }
            // Reset by this side a moment ago.
            None => total,
        };
        if taken > 0 {
            self.mux.taken(run.stream, taken, &mut self.out);
        }
        run.pieces.clear();
    }

    fn other_record(&mut self, kind: u8, content: &[u8]) -> Result<(), Broken> {
        match (kind, content) {
            (tls::content::ALERT, [_, 0]) => Err(match self.mux.goaway() {
                Some(goaway) if goaway.code != ResetReason::NO_ERROR => Broken::Goaway(goaway.code),
                _ => Broken::PeerClosed,
            }),
            (tls::content::ALERT, [_, code]) => Err(rustls::Error::AlertReceived((*code).into()).into()),
            (tls::content::HANDSHAKE, content) => {
                self.tls.message.extend_from_slice(content);
                self.handshake_messages()
            }
            _ => Err(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType).into()),
        }
    }

    /// Session tickets and key updates (RFC 8446, 4.6). Records are at most 16 KiB, and so are the messages in them here.
    fn handshake_messages(&mut self) -> Result<(), Broken> {
        const TICKET: u8 = 4;
        const KEY_UPDATE: u8 = 24;
        loop {
            let &[kind, a, b, c, ..] = &self.tls.message[..] else { return Ok(()) };
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > tls::MAX_PLAIN {
                return Err(
                    rustls::Error::InvalidMessage(rustls::InvalidMessage::HandshakePayloadTooLarge).into()
                );
            }
            if self.tls.message.len() < 4 + length {
                return Ok(());
            }
            // Each may cost the derivation of two keys, and an answer that waits for the peer to read it.
            self.mux.idle()?;
            let rest = self.tls.message.split_off(4 + length);
            let message = std::mem::replace(&mut self.tls.message, rest);
            match (kind, &message[4..]) {
                (TICKET, ticket) => self.tls.kernel.ticket(ticket)?,
                (KEY_UPDATE, [asked @ (0 | 1)]) => {
                    // Nothing may follow it under the old key.
                    if !self.tls.message.is_empty() {
                        return Err(
                            rustls::Error::from(rustls::PeerMisbehaved::KeyEpochWithPendingFragment).into()
                        );
                    }
                    self.tls.opener = self.tls.kernel.next_opener()?;
                    if *asked == 1 {
                        self.rekey()?;
                    }
                }
                _ => {
                    return Err(rustls::Error::InvalidMessage(rustls::InvalidMessage::UnexpectedMessage(
                        "handshake",
                    ))
                    .into());
                }
            }
        }
    }

    /// Tells the peer that this side's key changes, and changes it.
    pub(crate) fn rekey(&mut self) -> Result<(), Broken> {
        self.out.record(tls::content::HANDSHAKE, &[24, 0, 0, 1, 0]);
        self.out.rekey(self.tls.kernel.next_sealer()?);
        Ok(())
    }
}

/// Bytes of one stream that follow each other.
#[derive(Default)]
struct Run<'a> {
    stream: u32,
    pieces: SmallVec<[IoSlice<'a>; SLICES]>,
}

/// The alert for an error of this side's (RFC 8446, 6.2).
fn alert(error: &rustls::Error) -> u8 {
    match error {
        rustls::Error::DecryptError => 20,
        rustls::Error::PeerSentOversizedRecord => 22,
        rustls::Error::InvalidMessage(_) => 50,
        rustls::Error::InappropriateMessage { .. } | rustls::Error::InappropriateHandshakeMessage { .. } => {
            10
        }
        _ => 80,
    }
}
