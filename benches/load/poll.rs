//! Readiness by epoll, level-triggered: a socket that was not emptied reports again, which saves the read that would block.

use std::{io, os::fd::AsFd, time::Duration};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken per turn.
const BATCH: usize = 256;

/// What a socket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
}

/// A set of sockets, each under a number chosen by its owner.
pub(super) struct Poll {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    ready: usize,
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); BATCH],
            ready: 0,
        })
    }

    pub(super) fn add(&self, socket: impl AsFd, number: usize, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(socket, event(number, interest))?)
    }

    pub(super) fn change(&self, socket: impl AsFd, number: usize, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(socket, &mut event(number, interest))?)
    }

    pub(super) fn forget(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(socket)?)
    }

    /// Waits until a socket is ready or the time is over; the ready ones are then to be had from [`Poll::ready`].
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let timeout = match limit {
            None => EpollTimeout::NONE,
            // Rounded up, else the last millisecond before a deadline is spun away.
            Some(limit) => {
                EpollTimeout::try_from(limit + Duration::from_micros(999)).map_err(io::Error::other)?
            }
        };
        self.ready = match self.epoll.wait(&mut self.events, timeout) {
            Ok(ready) => ready,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    /// How many sockets are ready.
    pub(super) fn len(&self) -> usize {
        self.ready
    }

    /// The number of the `index`th ready socket.
    pub(super) fn ready(&self, index: usize) -> usize {
        // Came in as a usize.
        self.events[index].data() as usize
    }
}

fn event(number: usize, interest: Interest) -> EpollEvent {
    let flags = match interest {
        Interest::Read => EpollFlags::EPOLLIN,
        Interest::Write => EpollFlags::EPOLLOUT,
    };
    EpollEvent::new(flags, number as u64)
}
