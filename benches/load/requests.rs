//! Requests on standing connections: each sends its next request as soon as the reply to the last one is complete.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use super::{
    Limit, Outcome, PATIENCE, cut_short,
    frame::{REPLY, Request},
    hold::open_one,
    latencies,
    poll::{Interest, Poll},
    quantile, record, stalled,
};

/// Requests of the warm-up on each connection: tunnels are dialled and buffers grown before the time starts.
const WARM_UP: u64 = 20;

struct Connection {
    stream: TcpStream,
    received: usize,
    asked: Instant,
}

impl Connection {
    fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.received = 0;
        self.asked = Instant::now();
        // 64 bytes fit: the socket's buffer is empty while no request is under way.
        self.stream.write_all(request)
    }

    /// Takes what is there; whether the reply is now complete.
    fn take(&mut self, scratch: &mut [u8; REPLY]) -> io::Result<bool> {
        match self.stream.read(&mut scratch[self.received..]) {
            Ok(0) => Err(cut_short("a connection")),
            Ok(read) => {
                self.received += read;
                Ok(self.received == REPLY)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn run(target: SocketAddr, connections: usize, limit: Limit) -> io::Result<Outcome> {
    let request = Request::Reply.encode();
    let mut scratch = [0; REPLY];
    let mut poll = Poll::new()?;
    let mut all = Vec::with_capacity(connections);
    for number in 0..connections {
        // Each stands end to end before the next: Envoy resets streams that it has put on a tunnel before it heard from the peer
        // how many go on one.
        let stream = open_one(target)?;
        stream.set_nonblocking(true)?;
        poll.add(&stream, number, Interest::Read)?;
        all.push(Connection { stream, received: 0, asked: Instant::now() });
    }
    for connection in &mut all {
        connection.ask(&request)?;
    }

    let warm_up = WARM_UP * connections as u64;
    let mut latencies = latencies()?;
    let mut done = 0;
    let mut started = Instant::now();
    let mut ends = started + PATIENCE;
    loop {
        poll.wait(Some(PATIENCE))?;
        if poll.len() == 0 {
            return Err(stalled("requests"));
        }
        for index in 0..poll.len() {
            let connection = &mut all[poll.ready(index)];
            if !connection.take(&mut scratch)? {
                continue;
            }
            record(&mut latencies, connection.asked.elapsed());
            done += 1;
            if done == warm_up {
                latencies.reset();
                started = Instant::now();
                ends = started + limit.time;
            }
            connection.ask(&request)?;
        }
        let now = Instant::now();
        if done >= warm_up + limit.count || (done > warm_up && now >= ends) {
            let operations = done - warm_up;
            return Ok(Outcome {
                operations,
                with_warm_up: done,
                bytes: operations * REPLY as u64,
                elapsed: now - started,
                p50: quantile(&latencies, 0.5),
                p99: quantile(&latencies, 0.99),
                failures: 0,
            });
        }
        if done < warm_up && now >= ends {
            return Err(stalled("warm-up"));
        }
    }
}
