//! Load in the background of a scenario, and crowds of connections: who must not notice what happens meanwhile.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aquifer_sys::NetNs;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{client::PATIENCE, http, pod::Pod};

/// Failures that a report keeps in words; all are counted.
const FAILURES_KEPT: usize = 100;

/// Samples of latency that a report keeps; at 10,000 requests a second that is 200 s.
const SAMPLES_KEPT: usize = 2_000_000;

/// Connections of a crowd that are being opened at one time.
const OPENING: usize = 128;

/// HTTP requests that run until [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    runtime: tokio::runtime::Handle,
    start: Instant,
}

/// What became of a load's requests.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Requests answered with status 200.
    pub succeeded: u64,
    /// All others.
    pub failed: u64,
    /// The first failures: when, after the start, and what.
    pub failures: Vec<(Duration, String)>,
    /// Latencies of those that succeeded (new connections: with their connect), sorted.
    pub latencies: Vec<Duration>,
    /// How long the load ran.
    pub elapsed: Duration,
}

impl LoadReport {
    /// Latency at this percentile (0 to 100); zero without samples.
    pub fn percentile(&self, percentile: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * percentile / 100.0).round() as usize;
        self.latencies.get(at).copied().unwrap_or_default()
    }

    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.succeeded as f64 / self.elapsed.as_secs_f64()
    }

    /// Proves that at least so many requests ran and none failed.
    pub fn expect_no_failure(&self, at_least: u64) -> Result<()> {
        ensure!(self.failed == 0, "{} requests failed, the first ones: {:#?}", self.failed, self.failures);
        ensure!(self.succeeded >= at_least, "only {} requests ran, expected {at_least}", self.succeeded);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<(Duration, String)>>,
    latencies: Mutex<Vec<Duration>>,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn count(&self, start: Instant, begun: Instant, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
                if latencies.len() < SAMPLES_KEPT {
                    latencies.push(begun.elapsed());
                }
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                if failures.len() < FAILURES_KEPT {
                    failures.push((start.elapsed(), error.to_string()));
                }
            }
        }
    }
}

impl Pod {
    /// Starts HTTP requests to an [`Serve::Http`](crate::Serve::Http): on `standing` connections one after another, and on
    /// `per_second` new connections each second, one request each.
    pub fn load(&self, to: SocketAddr, standing: usize, per_second: u32) -> Load {
        let (shared, start) = (Arc::new(Shared::default()), Instant::now());
        let mut tasks = JoinSet::new();
        for _ in 0..standing {
            let (ns, shared) = (self.ns().clone(), Arc::clone(&shared));
            tasks.spawn_on(stand(ns, to, shared, start), self.runtime());
        }
        if per_second > 0 {
            let (ns, shared) = (self.ns().clone(), Arc::clone(&shared));
            let pause = Duration::from_secs(1) / per_second;
            tasks.spawn_on(arrive(ns, to, shared, start, pause), self.runtime());
        }
        Load { shared, tasks, runtime: self.runtime().clone(), start }
    }

    /// Opens `count` connections to a [`Serve::Echo`](crate::Serve::Echo), 128 at a time, and exchanges a byte on each.
    pub fn crowd(&self, to: SocketAddr, count: usize) -> Result<Held> {
        let runtime = self.runtime().clone();
        let ns = self.ns().clone();
        let (streams, slowest) = runtime.block_on(async {
            let turns = Arc::new(Semaphore::new(OPENING));
            let mut opening = JoinSet::new();
            for _ in 0..count {
                let (ns, turns) = (ns.clone(), Arc::clone(&turns));
                opening.spawn(async move {
                    let _turn = turns.acquire().await;
                    let begun = Instant::now();
                    let mut stream = connect(&ns, to).await?;
                    ping(&mut stream).await?;
                    Ok::<_, io::Error>((stream, begun.elapsed()))
                });
            }
            gather(opening).await
        })?;
        Ok(Held { streams, slowest, runtime })
    }
}

impl Load {
    /// Requests answered so far.
    pub fn succeeded(&self) -> u64 {
        self.shared.succeeded.load(Ordering::Relaxed)
    }

    /// Requests that failed so far.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were answered: the load has seen what just changed.
    pub fn wait_for_more(&self, count: u64, deadline: Duration) -> Result<()> {
        let goal = self.succeeded() + count;
        crate::wait_for("more requests to succeed", deadline, || Ok((self.succeeded() >= goal).then_some(())))
            .with_context(|| {
                let failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
                format!("{} requests failed: {failures:?}", self.failed())
            })
    }

    /// Ends the load in order: requests under way are waited for.
    pub fn finish(mut self) -> LoadReport {
        self.shared.stop.store(true, Ordering::Release);
        let tasks = &mut self.tasks;
        self.runtime.block_on(async { while tasks.join_next().await.is_some() {} });
        let take = |latencies: &Mutex<Vec<Duration>>| {
            let mut latencies =
                std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
            latencies.sort_unstable();
            latencies
        };
        LoadReport {
            succeeded: self.succeeded(),
            failed: self.failed(),
            failures: self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            latencies: take(&self.shared.latencies),
            elapsed: self.start.elapsed(),
        }
    }
}

/// Connections that stand, each to an echo.
#[derive(Debug)]
pub struct Held {
    streams: Vec<TcpStream>,
    slowest: Duration,
    runtime: tokio::runtime::Handle,
}

impl Held {
    /// Number of connections.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The longest time from connect to the first echo.
    pub fn slowest(&self) -> Duration {
        self.slowest
    }

    /// Exchanges a byte on each connection, all at once; the longest time that one took.
    pub fn ping_all(&mut self) -> Result<Duration> {
        let streams = std::mem::take(&mut self.streams);
        let (streams, slowest) = self.runtime.clone().block_on(async {
            let mut pinging = JoinSet::new();
            for mut stream in streams {
                pinging.spawn(async move {
                    let begun = Instant::now();
                    ping(&mut stream).await?;
                    Ok::<_, io::Error>((stream, begun.elapsed()))
                });
            }
            gather(pinging).await
        })?;
        self.streams = streams;
        Ok(slowest)
    }
}

async fn gather(mut tasks: JoinSet<io::Result<(TcpStream, Duration)>>) -> Result<(Vec<TcpStream>, Duration)> {
    let total = tasks.len();
    let (mut streams, mut slowest) = (Vec::with_capacity(total), Duration::ZERO);
    while let Some(done) = tasks.join_next().await {
        let (stream, time) =
            done?.with_context(|| format!("of {total} connections one failed after {}", streams.len()))?;
        slowest = slowest.max(time);
        streams.push(stream);
    }
    Ok((streams, slowest))
}

/// One standing connection: requests one after another, on a new connection after a failure.
async fn stand(ns: NetNs, to: SocketAddr, shared: Arc<Shared>, start: Instant) {
    let mut connection = None;
    while !shared.stopped() {
        let begun = Instant::now();
        let outcome = async {
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => connect(&ns, to).await?,
            };
            get(&mut stream, to).await?;
            connection = Some(stream);
            Ok(())
        };
        let outcome = outcome.await;
        let failed = outcome.is_err();
        shared.count(start, begun, outcome);
        if failed {
            // A refused connect costs nothing; without a pause the report would be nothing but these.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// New connections at a steady rate, each with one request.
async fn arrive(ns: NetNs, to: SocketAddr, shared: Arc<Shared>, start: Instant, pause: Duration) {
    let mut clock = interval(pause);
    // A machine that was busy makes up for it, so that the rate holds on average.
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    while !shared.stopped() {
        clock.tick().await;
        while calls.try_join_next().is_some() {}
        let (ns, shared) = (ns.clone(), Arc::clone(&shared));
        calls.spawn(async move {
            let begun = Instant::now();
            let outcome = async { get(&mut connect(&ns, to).await?, to).await };
            shared.count(start, begun, outcome.await);
        });
    }
    while calls.join_next().await.is_some() {}
}

async fn connect(ns: &NetNs, to: SocketAddr) -> io::Result<TcpStream> {
    // No await inside the closure: the thread is in the pod's namespace for the length of one system call.
    let socket = ns.run(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?;
    socket.set_nodelay(true)?;
    patient(socket.connect(to)).await
}

async fn ping(stream: &mut TcpStream) -> io::Result<()> {
    patient(async {
        stream.write_all(b"?").await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await?;
        if answer == *b"?" { Ok(()) } else { Err(io::Error::other("another byte came back")) }
    })
    .await
}

async fn get(stream: &mut TcpStream, to: SocketAddr) -> io::Result<()> {
    patient(async {
        stream.write_all(http::request("GET", &to.to_string(), "/").as_bytes()).await?;
        let mut buffer = Vec::with_capacity(512);
        let head = loop {
            if let Some(head) = http::take_head(&mut buffer)? {
                break head;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        while buffer.len() < head.content_length() {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        match head.status() {
            Some(200) => Ok(()),
            _ => Err(io::Error::other(format!("answered {:?}", head.first))),
        }
    })
    .await
}

async fn patient<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
