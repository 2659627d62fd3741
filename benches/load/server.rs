//! The server application: answers requests, takes and sends bulk bytes; one thread.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
};

use super::{
    frame::{CHUNK, PING, REPLY, REQUEST, Request, TOTAL},
    poll::{Interest, Poll},
};

/// The listener's number in the poll set; connections count from zero.
const LISTENER: usize = usize::MAX;
/// Connections at a time: what the descriptor limit of a small machine leaves.
const MOST_CONNECTIONS: usize = 16_000;

struct Connection {
    stream: TcpStream,
    interest: Interest,
    phase: Phase,
}

enum Phase {
    Request {
        frame: [u8; REQUEST],
        filled: usize,
    },
    Reply {
        sent: usize,
        close: bool,
    },
    Sink {
        taken: u64,
    },
    Source {
        most: u64,
        sent: u64,
    },
    /// The answer to one byte.
    Ping,
    /// The last thing on a connection.
    Total {
        total: [u8; TOTAL],
        sent: usize,
    },
}

/// What a connection needs next.
enum Step {
    Wait(Interest),
    Next(Phase),
    Close,
}

/// Serves until the process is ended.
pub(super) fn run(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.add(listener, LISTENER, Interest::Read)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut scratch = vec![b'b'; CHUNK];
    loop {
        poll.wait(None)?;
        for index in 0..poll.len() {
            let number = poll.ready(index);
            if number == LISTENER {
                accept(listener, &poll, &mut connections, &mut free)?;
                continue;
            }
            let Some(slot) = connections.get_mut(number) else { continue };
            let Some(connection) = slot else { continue };
            // An error belongs to its connection: the client counts it, the server goes on.
            match connection.advance(&mut scratch) {
                Ok(Some(interest)) if interest == connection.interest => {}
                Ok(Some(interest)) => {
                    connection.interest = interest;
                    poll.change(&connection.stream, number, interest)?;
                }
                Ok(None) | Err(_) => {
                    *slot = None;
                    free.push(number);
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &Poll,
    connections: &mut Vec<Option<Connection>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        if connections.len() - free.len() >= MOST_CONNECTIONS {
            continue;
        }
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let number = free.pop().unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        poll.add(&stream, number, Interest::Read)?;
        connections[number] = Some(Connection { stream, interest: Interest::Read, phase: Phase::first() });
    }
}

impl Connection {
    /// Goes on as far as it gets; `None` when the connection is done.
    fn advance(&mut self, scratch: &mut [u8]) -> io::Result<Option<Interest>> {
        loop {
            match self.phase.step(&mut self.stream, scratch) {
                Ok(Step::Next(phase)) => self.phase = phase,
                Ok(Step::Wait(interest)) => return Ok(Some(interest)),
                Ok(Step::Close) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Some(self.phase.interest()));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Phase {
    fn first() -> Self {
        Self::Request { frame: [0; REQUEST], filled: 0 }
    }

    fn interest(&self) -> Interest {
        match self {
            Self::Request { .. } | Self::Sink { .. } => Interest::Read,
            Self::Reply { .. } | Self::Ping | Self::Source { .. } | Self::Total { .. } => Interest::Write,
        }
    }

    /// Goes one step: a read or a write.
    fn step(&mut self, stream: &mut TcpStream, scratch: &mut [u8]) -> io::Result<Step> {
        Ok(match self {
            Self::Request { frame, filled } => {
                let read = stream.read(&mut frame[*filled..])?;
                *filled += read;
                match read {
                    0 => Step::Close,
                    _ if *filled == 1 && frame[0] == PING => Step::Next(Self::Ping),
                    _ if *filled < REQUEST => Step::Wait(Interest::Read),
                    _ => Request::decode(frame).map_or(Step::Close, |request| Step::Next(request.into())),
                }
            }
            Self::Reply { sent, close } => {
                *sent += stream.write(&scratch[..REPLY - *sent])?;
                match (*sent == REPLY, *close) {
                    (false, _) => Step::Wait(Interest::Write),
                    (true, true) => Step::Close,
                    (true, false) => {
                        *self = Self::first();
                        Step::Wait(Interest::Read)
                    }
                }
            }
            Self::Ping => {
                // One byte is written or not.
                if stream.write(&[PING])? == 0 {
                    return Ok(Step::Close);
                }
                *self = Self::first();
                Step::Wait(Interest::Read)
            }
            Self::Sink { taken } => {
                let read = stream.read(scratch)?;
                *taken += read as u64;
                match read {
                    0 => Step::Next(Self::Total { total: taken.to_be_bytes(), sent: 0 }),
                    _ => Step::Wait(Interest::Read),
                }
            }
            Self::Source { most, sent } => {
                let left = usize::try_from(*most - *sent).unwrap_or(usize::MAX).min(scratch.len());
                if left == 0 || has_ended(stream)? {
                    return Ok(Step::Next(Self::Total { total: sent.to_be_bytes(), sent: 0 }));
                }
                *sent += stream.write(&scratch[..left])? as u64;
                Step::Wait(Interest::Write)
            }
            Self::Total { total, sent } => {
                *sent += stream.write(&total[*sent..])?;
                if *sent == TOTAL { Step::Close } else { Step::Wait(Interest::Write) }
            }
        })
    }
}

impl From<Request> for Phase {
    fn from(request: Request) -> Self {
        match request {
            Request::Reply => Self::Reply { sent: 0, close: false },
            Request::ReplyAndClose => Self::Reply { sent: 0, close: true },
            Request::Sink => Self::Sink { taken: 0 },
            Request::Source { most } => Self::Source { most, sent: 0 },
        }
    }
}

/// Whether the client has ended its half: asked once a chunk, so it costs little beside the chunk.
fn has_ended(stream: &TcpStream) -> io::Result<bool> {
    match stream.peek(&mut [0]) {
        Ok(read) => Ok(read == 0),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}
