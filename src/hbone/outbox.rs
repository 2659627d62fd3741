//! What a tunnel has to send: frames go in, TLS records come out, and all of it lies in one buffer from the read of an
//! application's socket to the write into the tunnel's. Nothing is copied in between.
//!
//! A record is open while frames are added, and is sealed when it is full or the tunnel flushes: many small frames share one
//! record and one write.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};

use rustls::Error;
use smallvec::SmallVec;

use crate::frame::{self, HEADER, Head};
use crate::tls::{MAX_PLAIN, RECORD_HEADER, RECORD_OVERHEAD, RECORD_TAIL, Sealer, content};

/// Most bytes of an application in one record: one DATA frame that fills it.
pub(crate) const MAX_PIECE: usize = MAX_PLAIN - HEADER;
/// An open record with less room than this is not split over for an application's bytes: a new one begins.
const MIN_PIECE: usize = 1 << 10;
/// A read of no more than a record is not split where the open record has this much room.
const ROOMY: usize = 4 << 10;
/// First size of a buffer, in bytes.
const BUFFER: usize = 64 << 10;
/// Buffers of more than this are not kept: they come of a peer that did not read.
const KEEP: usize = 640 << 10;
/// Buffers that a thread keeps for its tunnels.
const SPARES: usize = 4;
/// Most records that one read of an application may fill.
const PIECES: usize = 17;

thread_local! {
    /// Buffers of this thread's tunnels, while they have nothing to send. All bytes of a buffer are initialised, so that
    /// each byte is zeroed once and not at each use.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(crate) struct Outbox {
    sealer: Sealer,
    /// Used up to `end`; what lies behind is initialised room.
    buffer: Vec<u8>,
    /// What the socket has taken.
    sent: usize,
    end: usize,
    /// Where the record begins to which frames are added.
    open: Option<usize>,
    /// Sealing failed, which ends the tunnel at its next flush.
    failed: Option<Error>,
}

/// Where a part of a read goes: `len` bytes after a frame's header at `frame`, in the record at `record`.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    record: usize,
    frame: usize,
    len: usize,
}

impl Outbox {
    pub(crate) fn new(sealer: Sealer) -> Self {
        Self { sealer, buffer: Vec::new(), sent: 0, end: 0, open: None, failed: None }
    }

    /// Bytes that wait for the socket.
    pub(crate) fn pending(&self) -> usize {
        self.end - self.sent
    }

    /// Adds whole frames, or parts of them in order.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer[self.end..self.end + now.len()].copy_from_slice(now);
            self.end += now.len();
            bytes = later;
        }
    }

    /// Adds DATA frames with `bytes`.
    pub(crate) fn data(&mut self, stream: u32, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_PIECE) {
            self.push(&data_head(stream, piece.len()));
            self.push(piece);
        }
    }

    /// Adds DATA frames with up to `want` bytes that `read` puts into the slices it is given, in order. It returns how many
    /// these were; none, and errors, leave nothing behind.
    pub(crate) fn read_data(
        &mut self,
        stream: u32,
        want: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let pieces = self.lay_out(want);
        let mut slices: SmallVec<[IoSliceMut<'_>; PIECES]> = SmallVec::new();
        let (mut rest, mut at) = (&mut self.buffer[..], 0);
        for piece in &pieces {
            let start = piece.frame + HEADER;
            let (slice, after) = std::mem::take(&mut rest)[start - at..].split_at_mut(piece.len);
            slices.push(IoSliceMut::new(slice));
            (rest, at) = (after, start + piece.len);
        }
        let read = read(&mut slices)?;
        drop(slices);
        let mut left = read;
        for piece in pieces {
            if left == 0 {
                break;
            }
            let len = left.min(piece.len);
            left -= len;
            if self.open != Some(piece.record) {
                self.seal();
                self.open = Some(piece.record);
            }
            self.buffer[piece.frame..piece.frame + HEADER].copy_from_slice(&data_head(stream, len));
            self.end = piece.frame + HEADER + len;
        }
        Ok(read)
    }

    /// Where `want` bytes go: the rest of the open record, then records of their own.
    fn lay_out(&mut self, want: usize) -> SmallVec<[Piece; PIECES]> {
        let mut left = want.min(PIECES * MAX_PIECE);
        let records = left / MAX_PIECE + 2;
        self.reserve(left + (records + 1) * (RECORD_OVERHEAD + HEADER));
        let mut pieces = SmallVec::new();
        let mut at = self.end;
        if let Some(record) = self.open {
            let room = (record + RECORD_HEADER + MAX_PLAIN).saturating_sub(at + HEADER);
            if room >= MIN_PIECE.min(left) {
                let len = left.min(room);
                pieces.push(Piece { record, frame: at, len });
                at += HEADER + len;
                left = if want <= MAX_PIECE && len >= ROOMY { 0 } else { left - len };
            }
            at += RECORD_TAIL;
        }
        while left > 0 && pieces.len() < PIECES {
            let len = left.min(MAX_PIECE);
            pieces.push(Piece { record: at, frame: at + RECORD_HEADER, len });
            at += RECORD_OVERHEAD + HEADER + len;
            left -= len;
        }
        pieces
    }

    /// Seals what there is, and gives it to `write` until all is taken or it says `WouldBlock`. True: nothing is left.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        self.seal();
        if let Some(error) = self.failed.clone() {
            return Err(io::Error::other(error));
        }
        while self.sent < self.end {
            match write(&self.buffer[self.sent..self.end]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.give_back();
        Ok(true)
    }

    /// Adds a record of another kind than data, alone.
    pub(crate) fn record(&mut self, kind: u8, bytes: &[u8]) {
        self.seal();
        self.push(bytes);
        self.seal_as(kind);
    }

    /// Whether the key is worn and a new one is due.
    pub(crate) fn worn(&self) -> bool {
        self.sealer.worn()
    }

    /// Seals from here on with another key.
    pub(crate) fn rekey(&mut self, sealer: Sealer) {
        self.seal();
        self.sealer = sealer;
    }

    /// Room in the open record, which is begun if there is none or it is full.
    fn room(&mut self) -> usize {
        let full = |record: usize| self.end >= record + RECORD_HEADER + MAX_PLAIN;
        if self.open.is_some_and(full) {
            self.seal();
        }
        self.reserve(RECORD_OVERHEAD + MAX_PLAIN);
        let record = *self.open.get_or_insert(self.end);
        if record == self.end {
            self.end += RECORD_HEADER;
        }
        record + RECORD_HEADER + MAX_PLAIN - self.end
    }

    fn seal(&mut self) {
        self.seal_as(content::DATA);
    }

    fn seal_as(&mut self, kind: u8) {
        let Some(record) = self.open.take() else { return };
        let end = self.end + RECORD_TAIL;
        if let Err(error) = self.sealer.seal(&mut self.buffer[record..end], kind) {
            self.failed.get_or_insert(error);
        }
        self.end = end;
    }

    /// Makes room for `more` bytes after `end`. It may move what waits.
    fn reserve(&mut self, more: usize) {
        if self.buffer.is_empty() {
            self.buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER]);
        }
        if self.end + more > self.buffer.len() && self.sent >= self.pending() {
            // No more is moved than was sent since the last time.
            self.buffer.copy_within(self.sent..self.end, 0);
            self.open = self.open.map(|record| record - self.sent);
            (self.sent, self.end) = (0, self.pending());
        }
        let needed = self.end + more;
        if needed > self.buffer.len() {
            self.buffer.resize(needed.next_multiple_of(BUFFER), 0);
        }
    }

    /// All was sent: the buffer serves others.
    fn give_back(&mut self) {
        (self.sent, self.end) = (0, 0);
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() && buffer.len() <= KEEP {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARES {
                    spare.push(buffer);
                }
            });
        }
    }
}

fn data_head(stream: u32, len: usize) -> [u8; HEADER] {
    // At most MAX_PIECE, which each peer takes as a frame.
    Head { len: len as u32, kind: frame::kind::DATA, flags: 0, stream }.bytes()
}

#[cfg(test)]
pub(crate) mod tests;
