//! Messages with descriptors between two processes of ours, over a pair of Unix sequenced-packet sockets.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 16;

/// A message: its bytes and the descriptors that came with it.
pub type Message = (Vec<u8>, Vec<OwnedFd>);

/// One end, blocking.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// A connected pair.
pub fn pair() -> io::Result<(Channel, Channel)> {
    todo!()
}

impl Channel {
    /// Takes over a descriptor, after a check that it is such a socket.
    pub fn from_fd(_fd: OwnedFd) -> io::Result<Self> {
        todo!()
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends one message.
    pub fn send(&self, _message: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        todo!()
    }

    /// Waits for one message; `None` once the other end is gone.
    pub fn recv(&self) -> io::Result<Option<Message>> {
        todo!()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// One end on a tokio runtime.
#[derive(Debug)]
pub struct AsyncChannel {
    fd: tokio::io::unix::AsyncFd<Channel>,
}

impl AsyncChannel {
    /// Registers a channel with the current runtime.
    pub fn new(_channel: Channel) -> io::Result<Self> {
        todo!()
    }

    /// Sends one message, waiting while the other end's buffer is full.
    pub async fn send(&self, _message: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        todo!()
    }

    /// Waits for one message; `None` once the other end is gone. Safe to drop half-way: a message is taken whole or not at all.
    pub async fn recv(&self) -> io::Result<Option<Message>> {
        todo!()
    }

    /// Leaves the runtime.
    pub fn into_channel(self) -> io::Result<Channel> {
        Ok(self.fd.into_inner())
    }
}
