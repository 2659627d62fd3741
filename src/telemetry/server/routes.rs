//! Which request gets which page.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::body::Body;
use super::{Readiness, Report, Surface};
use crate::{LogHandle, Telemetry};

/// The content type that Prometheus knows its text format by.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const LINES: &str = "application/jsonl";

pub(super) struct Routes {
    surface: Surface,
    renders: Arc<Semaphore>,
}

type Reply = Response<Body>;

impl Routes {
    pub(super) fn new(surface: Surface, renders: Arc<Semaphore>) -> Self {
        Self { surface, renders }
    }

    /// Answers a request. Bodies are not read.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Reply {
        let (method, path) = (request.method(), request.uri().path());
        let query = request.uri().query().unwrap_or_default();
        if let Some(refusal) = self.refuse_foreign(request.headers(), method) {
            return refusal;
        }
        if path != "/logging" && !is_read(method) {
            return if self.has(path) { method_not_allowed("GET, HEAD") } else { self.not_found(path) };
        }
        match (&self.surface, path) {
            (_, "/") => text(StatusCode::OK, self.index()),
            (Surface::Admin { telemetry, .. } | Surface::Metrics(telemetry), "/metrics") => {
                self.metrics(telemetry.clone()).await
            }
            (Surface::Admin { readiness, .. } | Surface::Ready(readiness), "/readyz" | "/healthz/ready") => {
                ready(readiness.as_ref(), query, request.headers())
            }
            (Surface::Admin { .. } | Surface::Ready(_), "/healthz") => {
                text(StatusCode::OK, "alive\n".to_owned())
            }
            (Surface::Admin { log: Some(log), .. }, "/logging") => logging(log, method, query),
            (Surface::Admin { log: Some(log), .. }, "/flows") => flows(log, method),
            (Surface::Admin { report, .. }, _) => self.page(report, path).await,
            _ => self.not_found(path),
        }
    }

    /// A browser that was led here by somebody's web page: by a name that was made to point at this machine
    /// (DNS rebinding), or with a POST from another origin. Only the admin pages need this, since they are guarded by
    /// nothing but being on loopback.
    fn refuse_foreign(&self, headers: &HeaderMap, method: &Method) -> Option<Reply> {
        if !matches!(self.surface, Surface::Admin { .. }) {
            return None;
        }
        let header = |name| headers.get(name).and_then(|value| HeaderValue::to_str(value).ok());
        let Some(host) = header(HOST).and_then(|host| host.parse::<Authority>().ok()) else {
            return Some(text(
                StatusCode::BAD_REQUEST,
                "the request needs one valid Host header\n".to_owned(),
            ));
        };
        let bare = host.host().trim_start_matches('[').trim_end_matches(']');
        if !bare.eq_ignore_ascii_case("localhost") && bare.parse::<IpAddr>().is_err() {
            let why = "admin pages answer to localhost and IP addresses only, not to other host names\n";
            return Some(text(StatusCode::FORBIDDEN, why.to_owned()));
        }
        let foreign =
            header(ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") != Some(host.as_str()));
        if (foreign || headers.contains_key(ORIGIN) && header(ORIGIN).is_none()) && !is_read(method) {
            let why = "the log level is not changed from another site's page\n";
            return Some(text(StatusCode::FORBIDDEN, why.to_owned()));
        }
        None
    }

    /// All paths and what they show.
    fn paths(&self) -> Vec<(String, &'static str)> {
        let metrics = || ("/metrics".to_owned(), "metrics, in Prometheus' text format");
        let ready = || {
            [
                ("/readyz".to_owned(), "200 when ready, else 503, and why; ?verbose: each pod; &format=json"),
                ("/healthz".to_owned(), "200 while the process lives"),
            ]
        };
        match &self.surface {
            Surface::Metrics(_) => vec![metrics()],
            Surface::Ready(_) => ready().into(),
            Surface::Admin { report, log, .. } => {
                let pages = report.pages().into_iter().map(|page| (format!("/{}", page.name), page.about));
                let logging = (
                    "/logging".to_owned(),
                    "the log filter; POST ?level=debug (or info,flow=off) changes it",
                );
                let flows =
                    ("/flows".to_owned(), "flow records from now on, a line of JSON each, until you hang up");
                let log = log.iter().flat_map(|_| [logging.clone(), flows.clone()]);
                pages.chain(log).chain([metrics()]).chain(ready()).collect()
            }
        }
    }

    fn has(&self, path: &str) -> bool {
        path == "/" || path == "/healthz/ready" || self.paths().iter().any(|(known, _)| known == path)
    }

    fn index(&self) -> String {
        self.paths().iter().fold(String::new(), |mut text, (path, about)| {
            let _ = writeln!(text, "{path:<16}{about}");
            text
        })
    }

    fn not_found(&self, path: &str) -> Reply {
        let path: String = path.chars().take(100).collect();
        text(StatusCode::NOT_FOUND, format!("there is no page {path}; these there are:\n{}", self.index()))
    }

    async fn metrics(&self, telemetry: Telemetry) -> Reply {
        match self.off_task(move || telemetry.render()).await {
            Some(page) => reply(StatusCode::OK, EXPOSITION, page),
            None => broken(),
        }
    }

    async fn page(&self, report: &Arc<dyn Report>, path: &str) -> Reply {
        let name = path.trim_start_matches('/').to_owned();
        let known = name.split_once('/').map_or(name.as_str(), |(page, _)| page);
        if !report.pages().iter().any(|page| page.name == known) {
            return self.not_found(path);
        }
        let report = report.clone();
        let made = self
            .off_task(move || report.page(&name).and_then(|page| serde_json::to_string_pretty(&page).ok()));
        match made.await {
            Some(Some(page)) => reply(StatusCode::OK, JSON, page + "\n"),
            Some(None) => self.not_found(path),
            None => broken(),
        }
    }

    /// Runs what takes long on a thread for such work, few at a time. None where it panicked.
    async fn off_task<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        // The permit goes with the work, which goes on when the caller hangs up.
        let permit = self.renders.clone().acquire_owned().await.ok()?;
        spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        })
        .await
        .ok()
    }
}

fn ready(readiness: &dyn Readiness, query: &str, headers: &HeaderMap) -> Reply {
    let ready = readiness.ready();
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = |ready: bool| if ready { "ready" } else { "not ready" };
    let mut lines = format!("{}: {}\n", word(ready.ready), ready.why);
    if parameter(query, "verbose").is_none() {
        return text(status, lines);
    }
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if parameter(query, "format").as_deref() == Some("json") || accepts.contains(JSON) {
        return reply(status, JSON, serde_json::to_string_pretty(&ready).unwrap_or_default() + "\n");
    }
    for pod in &ready.detail {
        let _ = writeln!(lines, "{} {} ({}): {}", word(pod.ready), pod.pod, pod.uid, pod.why);
    }
    text(status, lines)
}

fn logging(log: &LogHandle, method: &Method, query: &str) -> Reply {
    if is_read(method) {
        return text(StatusCode::OK, log.filter() + "\n");
    }
    if method != Method::POST {
        return method_not_allowed("GET, HEAD, POST");
    }
    let Some(level) = parameter(query, "level").filter(|level| !level.is_empty()) else {
        return text(StatusCode::BAD_REQUEST, "say which: POST /logging?level=debug\n".to_owned());
    };
    match log.set_filter(&level) {
        Ok(()) => {
            tracing::info!(filter = log.filter(), "log filter changed by an admin request");
            text(StatusCode::OK, log.filter() + "\n")
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Flow records as they are written to the log, for as long as the caller listens.
fn flows(log: &LogHandle, method: &Method) -> Reply {
    if !log.writes_flows() {
        let why =
            "flow records are switched off by the log's filter; POST /logging?level=info switches them on\n";
        return text(StatusCode::CONFLICT, why.to_owned());
    }
    let mut response = reply(StatusCode::OK, LINES, String::new());
    if method == Method::GET {
        *response.body_mut() = Body::Live(log.flows());
    }
    response
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn text(status: StatusCode, text: String) -> Reply {
    reply(status, TEXT, text)
}

fn method_not_allowed(allowed: &'static str) -> Reply {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("this page takes {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn broken() -> Reply {
    let why = "the page could not be made; this is a fault in aquifer, please report it with the log\n";
    text(StatusCode::INTERNAL_SERVER_ERROR, why.to_owned())
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    let mut response = Response::new(Body::Page(Some(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Pages are of now, and a browser must take them for what they say they are.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The value of a query parameter, empty where it has none; percent-decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let parts = query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
    parts.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decode(value))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
