//! What a parent is told by signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGHUP.
    Upgrade,
    /// SIGUSR2.
    Leave,
}

/// The signals that are heard, from when this was made.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    leave: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            leave: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal. Safe to drop half-way.
    pub(super) async fn told(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Terminate,
            _ = self.interrupt.recv() => Told::Interrupt,
            _ = self.hangup.recv() => Told::Upgrade,
            _ = self.leave.recv() => Told::Leave,
        }
    }

    /// Waits for a signal that ends the process.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
