//! The load generator of the data-plane bench: one server and one client program, the same for every contender.
//!
//! Both run in processes of their own, so that the CPU time of applications is never counted to a proxy; each is one thread
//! around epoll with as few system calls a message as the socket interface allows, so that on a small machine the load leaves
//! the processor to what is measured. A [`Job`] is bounded in time and in count and ends by itself.

mod bulk;
mod connections;
mod frame;
mod hold;
mod once;
mod poll;
mod process;
mod requests;
mod server;

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use aquifer_sys::NetNs;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use process::{Client, Held, Server, dispatch};

/// How long a client waits for one connection, and for any progress at all, before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Latencies are kept to three digits up to one minute, in nanoseconds.
const LONGEST_LATENCY_NS: u64 = 60_000_000_000;

/// What a client does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    /// Requests of 64 B with replies of 1 KiB, one at a time on each of so many standing connections.
    Requests {
        /// Standing connections.
        connections: usize,
        /// When to stop.
        limit: Limit,
    },
    /// Connections, each for one request and reply, closed by the server.
    Connections {
        /// How many at a time.
        parallel: usize,
        /// When to stop.
        limit: Limit,
    },
    /// A single connection for one request and reply, with none before it: what a first connection takes.
    Once,
    /// Bytes in one direction, as fast as they go.
    Bulk {
        /// Streams at a time, a connection each.
        streams: usize,
        /// Which way.
        direction: Direction,
        /// When to stop; its count is bytes a stream.
        limit: Limit,
    },
}

/// Which way bulk bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// A job ends at whichever comes first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// Time after the warm-up.
    pub time: Duration,
    /// Operations (or bytes a stream).
    pub count: u64,
}

impl Limit {
    /// For requests and connections that end with the time: the bound is far above what it allows anybody.
    pub(crate) fn of_time(time: Duration) -> Self {
        Self { time, count: 100_000_000 }
    }
}

/// What a job found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests or connections that were completed in the measured time; streams of a bulk job.
    pub operations: u64,
    /// The same, with those of the warm-up: what the CPU time around the whole job is divided by.
    pub with_warm_up: u64,
    /// Payload that arrived at its receiver.
    pub bytes: u64,
    /// The measured time.
    pub elapsed: Duration,
    /// Median latency of an operation; zero for bulk.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Connections that failed ([`Job::Connections`]; the other jobs fail as a whole).
    pub failures: u64,
}

impl Outcome {
    /// Operations a second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Payload in 10⁹ bit/s.
    pub fn gigabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.elapsed.as_secs_f64()
    }
}

impl Job {
    /// Runs the job against the server at `target`.
    ///
    /// # Errors
    /// Where a connection cannot be made, ends early, or makes no progress for 10 s; where bytes are lost.
    pub fn run(&self, target: SocketAddr) -> io::Result<Outcome> {
        match *self {
            Self::Once => once::run(target),
            Self::Requests { connections, limit } => requests::run(target, connections, limit),
            Self::Connections { parallel, limit } => connections::run(target, parallel, limit),
            Self::Bulk { streams, direction, limit } => bulk::run(target, streams, direction, limit),
        }
    }
}

/// Opens a connection from inside `netns` and sends a byte each way, so that it stands end to end; blocking, with patience.
///
/// # Errors
/// Where it is refused, cut, or not answered.
pub(crate) fn open_idle(netns: &NetNs, target: SocketAddr) -> io::Result<TcpStream> {
    netns.run(|| hold::open_one(target))
}

/// A connection to the server, as an ordinary application would make it.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn latencies() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST_LATENCY_NS, 3).map_err(io::Error::other)
}

fn record(latencies: &mut Histogram<u64>, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

fn quantile(latencies: &Histogram<u64>, quantile: f64) -> Duration {
    Duration::from_nanos(latencies.value_at_quantile(quantile))
}

fn cut_short(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("{what} ended before it was complete"))
}

fn stalled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what}: nothing moved for {} s", PATIENCE.as_secs()))
}

#[cfg(test)]
mod tests;
