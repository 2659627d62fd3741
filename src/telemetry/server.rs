//! A small HTTP/1.1 server for metrics, readiness and admin pages, bounded in connections, header size and time.

mod body;
mod page;
mod routes;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

pub use self::page::{Fault, Page, PodReady, Readiness, Ready, Report, pages};
pub use self::snapshot::snapshot_page;

use self::body::Body;
use self::routes::Routes;
use crate::{LogHandle, Telemetry};

/// Limits of the server.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at a time. The callers are a kubelet, a Prometheus or two, a person.
    connections: usize,
    /// For the whole head of a request, and for the pause before it.
    head: Duration,
    /// For all of a connection; then it closes after the request that it is at.
    life: Duration,
    /// For that last request: a reader that stops must not keep its page in memory.
    last: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(10),
    life: Duration::from_secs(300),
    last: Duration::from_secs(30),
};
/// Bytes of a request's head; curl's and Prometheus's have a few hundred.
const HEAD_LIMIT: usize = 16 * 1024;
/// Header lines of a request.
const HEADERS_LIMIT: usize = 64;
/// Pages that are made at a time: a page may be many megabytes.
const RENDERS: usize = 2;
/// When accept fails for want of descriptors, this is the pause; retrying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a listener serves.
#[derive(Clone)]
pub enum Surface {
    /// Admin pages, log level, metrics and readiness, for people on this machine.
    Admin {
        /// The role's pages.
        report: Arc<dyn Report>,
        /// `/readyz`.
        readiness: Arc<dyn Readiness>,
        /// `/metrics`.
        telemetry: Telemetry,
        /// `/logging`, where the process has a log of its own.
        log: Option<LogHandle>,
    },
    /// `/metrics`, for Prometheus.
    Metrics(Telemetry),
    /// `/readyz` and `/healthz`, for the kubelet.
    Ready(Arc<dyn Readiness>),
}

/// Serves until the future is dropped, which ends its connections too. The listener may come from any network
/// namespace. Needs a tokio runtime with IO and time.
///
/// When all 64 connections are taken, a new one takes the place of that which has been without a request for longest:
/// neither a slow-loris nor a flood keeps the kubelet out.
///
/// # Errors
///
/// The listener cannot be registered with the runtime. Errors of single connections end these only.
pub async fn serve(surface: Surface, listener: std::net::TcpListener) -> io::Result<()> {
    serve_within(surface, listener, LIMITS).await
}

async fn serve_within(surface: Surface, listener: std::net::TcpListener, limits: Limits) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let routes = Arc::new(Routes::new(surface, Arc::new(Semaphore::new(RENDERS))));
    let mut connections = Connections::default();
    let mut accepting = true;
    loop {
        tokio::select! {
            Some(ended) = connections.tasks.join_next_with_id() => connections.forget(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    accepting = true;
                    connections.take_on(stream, &routes, limits);
                }
                Err(error) => {
                    // Said once, or a process out of descriptors would fill its log with it.
                    if std::mem::replace(&mut accepting, false) {
                        tracing::warn!(%error, "cannot accept for metrics, readiness or admin pages; trying again");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    live: HashMap<Id, Connection>,
    taken: u64,
}

struct Connection {
    number: u64,
    busy: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Connections {
    fn take_on(&mut self, stream: TcpStream, routes: &Arc<Routes>, limits: Limits) {
        if self.live.len() >= limits.connections && !self.evict() {
            // All are at work. The caller sees its connection closed and may come again.
            return;
        }
        self.taken += 1;
        let busy = Arc::new(AtomicBool::new(false));
        let task = self.tasks.spawn(connection(stream, routes.clone(), busy.clone(), limits));
        self.live.insert(task.id(), Connection { number: self.taken, busy, task });
    }

    /// Ends the oldest connection that is not at a request; whether there was one.
    fn evict(&mut self) -> bool {
        let idle = self.live.iter().filter(|(_, c)| !c.busy.load(Ordering::Relaxed));
        let Some(id) = idle.min_by_key(|(_, c)| c.number).map(|(id, _)| *id) else { return false };
        if let Some(connection) = self.live.remove(&id) {
            connection.task.abort();
        }
        true
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.live.remove(&id);
    }
}

async fn connection(stream: TcpStream, routes: Arc<Routes>, busy: Arc<AtomicBool>, limits: Limits) {
    // Who looks at what happens does so for hours; bounds of it are the place in the list, which it loses first, and the records
    // that are kept for it.
    let live = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        let (routes, busy, live) = (routes.clone(), busy.clone(), live.clone());
        async move {
            busy.store(true, Ordering::Relaxed);
            let response = routes.answer(request).await;
            busy.store(false, Ordering::Relaxed);
            live.fetch_or(matches!(response.body(), Body::Live(_)), Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_LIMIT)
        .max_headers(HEADERS_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    // Errors here are the caller's: it went away, or does not speak HTTP and got 400. They would only fill the log.
    if timeout(limits.life, serving.as_mut()).await.is_err() {
        if live.load(Ordering::Relaxed) {
            let _ = serving.await;
            return;
        }
        serving.as_mut().graceful_shutdown();
        let _ = timeout(limits.last, serving).await;
    }
}
