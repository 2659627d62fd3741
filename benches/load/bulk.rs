//! Bulk bytes one way; both ends count, and a stream whose counts differ is an error.
//!
//! The client ends its half first, whichever way the bytes go, and the server answers with the end of its own. Envoy gets this
//! order right; a server that ends first, in the middle of much data, it resets.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{
    Direction, Limit, Outcome, PATIENCE, connect, cut_short,
    frame::{CHUNK, Request, TOTAL},
    poll::{Interest, Poll},
    stalled,
};

struct Stream {
    stream: TcpStream,
    /// Bulk bytes written, or all bytes read.
    moved: u64,
    /// The last bytes read: at the end, the server's total.
    tail: Vec<u8>,
    /// Whether our half is at its end.
    half_ended: bool,
}

pub(super) fn run(
    target: SocketAddr,
    streams: usize,
    direction: Direction,
    limit: Limit,
) -> io::Result<Outcome> {
    let mut poll = Poll::new()?;
    let mut all = Vec::with_capacity(streams);
    for _ in 0..streams {
        let stream = connect(target)?;
        all.push(Stream { stream, moved: 0, tail: Vec::with_capacity(TOTAL), half_ended: false });
    }
    let request = match direction {
        Direction::Up => Request::Sink,
        Direction::Down => Request::Source { most: limit.count },
    };
    let started = Instant::now();
    let ends = started + limit.time;
    for (number, stream) in all.iter_mut().enumerate() {
        stream.stream.write_all(&request.encode())?;
        let interest = if direction == Direction::Up { Interest::Write } else { Interest::Read };
        poll.add(&stream.stream, number, interest)?;
    }

    let mut scratch = vec![b'b'; CHUNK];
    let mut open = streams;
    let mut bytes = 0;
    let mut moved_at = started;
    while open > 0 {
        // A sender whose buffers stay full notices the end of its time all the same.
        poll.wait(Some(Duration::from_millis(100)))?;
        let now = Instant::now();
        if poll.len() > 0 {
            moved_at = now;
        } else if now - moved_at > PATIENCE {
            return Err(stalled("bulk"));
        }
        if now >= ends {
            for (number, stream) in all.iter_mut().enumerate() {
                stream.end_half(&poll, number)?;
            }
        }
        for index in 0..poll.len() {
            let number = poll.ready(index);
            let stream = &mut all[number];
            if direction == Direction::Up && !stream.half_ended {
                stream.moved += progress(stream.stream.write(&scratch))?.unwrap_or(0) as u64;
                if stream.moved >= limit.count {
                    stream.end_half(&poll, number)?;
                }
                continue;
            }
            match progress(stream.stream.read(&mut scratch))? {
                None => {}
                Some(0) => {
                    bytes += stream.confirmed(direction)?;
                    open -= 1;
                    // Else the end of the stream would be reported again and again.
                    poll.forget(&stream.stream)?;
                    stream.half_ended = true;
                }
                Some(read) => stream.keep(&scratch[..read], direction),
            }
        }
    }
    Ok(Outcome {
        operations: streams as u64,
        with_warm_up: streams as u64,
        bytes,
        elapsed: started.elapsed(),
        p50: Duration::ZERO,
        p99: Duration::ZERO,
        failures: 0,
    })
}

/// `None` where the socket would block.
fn progress(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Stream {
    fn end_half(&mut self, poll: &Poll, number: usize) -> io::Result<()> {
        if !self.half_ended {
            self.half_ended = true;
            self.stream.shutdown(Shutdown::Write)?;
            poll.change(&self.stream, number, Interest::Read)?;
        }
        Ok(())
    }

    fn keep(&mut self, read: &[u8], direction: Direction) {
        if direction == Direction::Down {
            self.moved += read.len() as u64;
        }
        let fresh = &read[read.len().saturating_sub(TOTAL)..];
        let stale = (self.tail.len() + fresh.len()).saturating_sub(TOTAL);
        self.tail.drain(..stale);
        self.tail.extend_from_slice(fresh);
    }

    /// The payload, if both ends agree about it.
    fn confirmed(&self, direction: Direction) -> io::Result<u64> {
        let total: [u8; TOTAL] = self.tail.as_slice().try_into().map_err(|_| cut_short("a bulk stream"))?;
        let theirs = u64::from_be_bytes(total);
        let ours = match direction {
            Direction::Up => self.moved,
            Direction::Down => self.moved - TOTAL as u64,
        };
        if ours == theirs {
            return Ok(ours);
        }
        Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("a bulk stream lost bytes: the client counts {ours}, the server {theirs}"),
        ))
    }
}
