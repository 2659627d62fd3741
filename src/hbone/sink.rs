//! An application's socket at the end of a stream: bytes go there straight from the buffer that the tunnel was read into,
//! and are copied only where the socket takes no more.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::task::Context;

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::budget::Hold;
use crate::copy::{Application, Meter};
use crate::mux::Inbox;
use crate::transfer::transfer;

/// Slices in one write. A read of the tunnel holds about this many full records.
pub(crate) const SLICES: usize = 20;

pub(crate) struct Sink {
    app: Arc<TcpStream>,
    /// Which application it belongs to.
    whose: Application,
    meter: Arc<dyn Meter>,
    hold: Hold,
    /// Bytes that the application's socket took.
    delivered: u64,
    failed: Option<io::Error>,
}

impl Sink {
    pub(crate) fn new(
        app: Arc<TcpStream>,
        whose: Application,
        meter: Arc<dyn Meter>,
        mut hold: Hold,
        waiting: usize,
    ) -> Self {
        if waiting > 0 {
            hold.add(waiting);
        }
        Self { app, whose, meter, hold, delivered: 0, failed: None }
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(crate) fn failed(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    /// Whether the process's cap on unread bytes wants this stream to end.
    pub(crate) fn doomed(&self) -> bool {
        self.hold.doomed()
    }

    /// The application takes nothing now.
    pub(crate) fn stop(&mut self, cx: &Context<'_>) {
        self.hold.stop(cx);
    }

    /// Gives `pieces` to the application, and to `inbox` what it does not take, behind what is there. Returns how many
    /// bytes are done with at once.
    pub(crate) fn deliver(&mut self, pieces: &[IoSlice<'_>], inbox: &mut Inbox) -> usize {
        if self.failed.is_some() {
            // Nobody takes them any more: they make room for those of other streams.
            return pieces.iter().map(|piece| piece.len()).sum();
        }
        let taken = if inbox.is_empty() { self.write(pieces) } else { 0 };
        let mut skip = taken;
        for piece in pieces {
            let rest = &piece[skip.min(piece.len())..];
            skip -= piece.len() - rest.len();
            if !rest.is_empty() {
                self.hold.add(rest.len());
                inbox.push(rest);
            }
        }
        taken
    }

    /// Gives the application what waits. Returns how much it took; 0: none now.
    pub(crate) fn drain(&mut self, inbox: &mut Inbox) -> usize {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = inbox.slices(&mut slices);
        let taken = self.write(&slices[..used]);
        inbox.advance(taken);
        if taken > 0 {
            self.hold.take(taken);
        }
        taken
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> usize {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        match transfer(&self.app, Interest::WRITABLE, total, |mut socket| socket.write_vectored(pieces)) {
            Ok(taken) => {
                self.delivered += taken as u64;
                self.whose.other().count(&*self.meter, taken);
                taken
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.failed = Some(error);
                0
            }
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("app", &self.app)
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}
