//! New connections: connect, one request, one reply, closed by the server; then the next.
//!
//! The server closes first, so that it is its side that keeps the TIME_WAIT and the client never runs out of ports.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use hdrhistogram::Histogram;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Limit, Outcome, PATIENCE, cut_short,
    frame::{REPLY, Request},
    latencies,
    poll::{Interest, Poll},
    quantile, record, stalled,
};

/// Connections of the warm-up for each that runs at a time.
const WARM_UP: u64 = 4;
/// How many connections in a hundred may fail before the job does.
const BEARABLE_PERCENT: u64 = 1;

struct Attempt {
    stream: TcpStream,
    begun: Instant,
    asked: bool,
    received: usize,
}

impl Attempt {
    fn begin(target: SocketAddr) -> io::Result<Self> {
        let socket =
            Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        let begun = Instant::now();
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { stream: socket.into(), begun, asked: false, received: 0 })
    }

    /// Goes on as far as it gets; whether reply and end have arrived.
    fn advance(&mut self, request: &[u8], scratch: &mut [u8; REPLY]) -> io::Result<bool> {
        if !self.asked {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            self.stream.write_all(request)?;
            self.asked = true;
            return Ok(false);
        }
        loop {
            // One byte of room is left for the end of the stream to show in.
            let room = &mut scratch[..(REPLY - self.received).max(1)];
            match self.stream.read(room) {
                Ok(0) if self.received == REPLY => return Ok(true),
                Ok(0) => return Err(cut_short("a reply")),
                Ok(read) => self.received += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.received > REPLY {
                return Err(io::Error::new(ErrorKind::InvalidData, "a reply is too long"));
            }
        }
    }
}

struct Tally {
    latencies: Histogram<u64>,
    done: u64,
    failures: u64,
    first_failure: Option<io::Error>,
}

impl Tally {
    fn fail(&mut self, error: io::Error) {
        self.failures += 1;
        self.first_failure.get_or_insert(error);
    }

    /// The error of the job, if too many connections failed.
    fn verdict(&mut self) -> io::Result<()> {
        let bearable = (self.done * BEARABLE_PERCENT / 100).max(2);
        match self.first_failure.take() {
            Some(error) if self.failures > bearable => Err(io::Error::new(
                error.kind(),
                format!(
                    "{} connections failed beside {} good ones, first: {error}",
                    self.failures, self.done
                ),
            )),
            kept => {
                self.first_failure = kept;
                Ok(())
            }
        }
    }
}

pub(super) fn run(target: SocketAddr, parallel: usize, limit: Limit) -> io::Result<Outcome> {
    let request = Request::ReplyAndClose.encode();
    let mut scratch = [0; REPLY];
    let mut poll = Poll::new()?;
    let mut attempts = Vec::with_capacity(parallel);
    for number in 0..parallel {
        attempts.push(begin(target, &poll, number)?);
    }

    let warm_up = WARM_UP * parallel as u64;
    let mut tally = Tally { latencies: latencies()?, done: 0, failures: 0, first_failure: None };
    let mut started = Instant::now();
    let mut ends = started + PATIENCE;
    loop {
        poll.wait(Some(PATIENCE))?;
        if poll.len() == 0 {
            return Err(stalled("connections"));
        }
        for index in 0..poll.len() {
            let number = poll.ready(index);
            let attempt = &mut attempts[number];
            let asked = attempt.asked;
            match attempt.advance(&request, &mut scratch) {
                Ok(false) => {
                    if asked != attempt.asked {
                        poll.change(&attempt.stream, number, Interest::Read)?;
                    }
                    continue;
                }
                Ok(true) => {
                    record(&mut tally.latencies, attempt.begun.elapsed());
                    tally.done += 1;
                    if tally.done == warm_up {
                        tally.latencies.reset();
                        started = Instant::now();
                        ends = started + limit.time;
                    }
                }
                Err(error) => {
                    tally.fail(error);
                    tally.verdict()?;
                }
            }
            // Dropping the attempt closes its socket and takes it out of the poll set.
            attempts[number] = begin(target, &poll, number)?;
        }
        let now = Instant::now();
        if tally.done >= warm_up + limit.count || (tally.done > warm_up && now >= ends) {
            let operations = tally.done - warm_up;
            return Ok(Outcome {
                operations,
                with_warm_up: tally.done,
                bytes: operations * REPLY as u64,
                elapsed: now - started,
                p50: quantile(&tally.latencies, 0.5),
                p99: quantile(&tally.latencies, 0.99),
                failures: tally.failures,
            });
        }
        if tally.done < warm_up && now >= ends {
            return Err(stalled("warm-up"));
        }
    }
}

fn begin(target: SocketAddr, poll: &Poll, number: usize) -> io::Result<Attempt> {
    let attempt = Attempt::begin(target)?;
    poll.add(&attempt.stream, number, Interest::Write)?;
    Ok(attempt)
}
