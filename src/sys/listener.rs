//! A listener on a tokio runtime that gives out sockets which no runtime knows yet.

use std::io;
use std::net::TcpListener;

use tokio::io::unix::AsyncFd;

use crate::socket::{self, Accepted};

/// A nonblocking listener, registered with the current runtime. What it accepts is registered nowhere: the taker chooses
/// the runtime that will serve it.
#[derive(Debug)]
pub struct AsyncListener(AsyncFd<TcpListener>);

impl AsyncListener {
    /// Registers a listener, which has to be nonblocking.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        // SAFETY: a `TcpListener` owns its descriptor, and gives the same one out as long as it lives; it is dropped
        // together with its registration, and `AsyncFd` deregisters first.
        unsafe { AsyncFd::register(listener) }.map(Self).map_err(Into::into)
    }

    /// Waits until something is there, then takes up to `most` connections. An error comes after those that were taken
    /// before it; nothing is lost with it, what was not taken waits in the queue.
    ///
    /// # Errors
    /// Those of accept(2), such as EMFILE, but never EAGAIN. Safe to drop while it waits.
    pub async fn accept(&self, most: usize, mut take: impl FnMut(Accepted)) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        for _ in 0..most {
            match socket::accept(self.0.get_ref()) {
                Ok(accepted) => take(accepted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what waits in the queue now, for a listener that is about to close: what was answered is served. Ends early
    /// where accept(2) fails; what is left is reset when the last copy closes.
    pub fn drain(&self, mut take: impl FnMut(Accepted)) {
        while let Ok(accepted) = socket::accept(self.0.get_ref()) {
            take(accepted);
        }
    }
}
