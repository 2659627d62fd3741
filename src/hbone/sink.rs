//! An application's socket at the end of a stream: bytes go there straight from the buffer that the tunnel was read into,
//! and are copied only where the socket takes no more.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::Context;

use socket2::Socket;
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
    /// bytes are done with at once. After the `last` pieces the caller ends the socket's writing side at once.
    pub(crate) fn deliver(&mut self, pieces: &[IoSlice<'_>], last: bool, inbox: &mut Inbox) -> usize {
        if self.failed.is_some() {
            // Nobody takes them any more: they make room for those of other streams.
            return pieces.iter().map(|piece| piece.len()).sum();
        }
        let taken = if inbox.is_empty() { self.write(pieces, last) } else { 0 };
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
        let taken = self.write(&slices[..used], false);
        inbox.advance(taken);
        if taken > 0 {
            self.hold.take(taken);
        }
        taken
    }

    fn write(&mut self, pieces: &[IoSlice<'_>], last: bool) -> usize {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        // The kernel holds the last bytes for the end that follows, so that both are one segment and wake the application once. Where
        // the socket takes only some of them, it holds nothing.
        let flags = if last { libc::MSG_MORE } else { 0 };
        let write = |socket: &Socket| socket.send_vectored_with_flags(pieces, flags);
        match transfer(&self.app, Interest::WRITABLE, total, write) {
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

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::net::Shutdown;

    use socket2::SockRef;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::budget::Budget;
    use crate::tests::support::sockets;

    #[tokio::test]
    async fn the_last_bytes_leave_with_the_end() {
        let mut held = 0;
        for _ in 0..10 {
            let (mut client, app) = sockets().await;
            app.writable().await.unwrap();
            let app = Arc::new(app);
            let hold = Hold::new(Budget::new(1 << 20));
            let mut sink = Sink::new(Arc::clone(&app), Application::Client, Arc::new(()), hold, 0);
            let mut inbox = Inbox::default();
            assert_eq!(sink.deliver(&[IoSlice::new(b"first ")], false, &mut inbox), 6);
            let mut first = [0; 6];
            client.read_exact(&mut first).await.unwrap();
            assert_eq!(sink.deliver(&[IoSlice::new(b"la"), IoSlice::new(b"st")], true, &mut inbox), 4);
            held += u32::from(SockRef::from(&client).peek(&mut [MaybeUninit::uninit()]).is_err());
            SockRef::from(&*app).shutdown(Shutdown::Write).unwrap();
            let mut last = String::new();
            client.read_to_string(&mut last).await.unwrap();
            assert_eq!((&first[..], &*last), (&b"first "[..], "last"));
        }
        // The kernel holds them for 200 ms, which a busy machine may take once to get here.
        assert!(held > 5, "{held} of 10");
    }
}
