//! The server as its callers see it, over real sockets: pages, refusals, and what hostile callers cannot do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::testing::{Taken, parse, telemetry};
use crate::{LogFormat, TelemetryConfig};

/// No answer takes this long, however slow the machine. Below hyper's own 30 s for a request's head, so that a test can
/// tell its timeout from ours.
const SOON: Duration = Duration::from_secs(20);
/// Timeouts that are not what a test is about.
const NEVER: Duration = Duration::from_secs(3_600);
const PATIENT: Limits = Limits { connections: 64, head: NEVER, life: NEVER, last: NEVER };

struct Role {
    big: usize,
}

impl Report for Role {
    fn pages(&self) -> Vec<Page> {
        let broken = Page { name: "broken", about: "fails" };
        let big = Page { name: "big", about: "many bytes" };
        vec![pages::CONFIG, pages::CERTIFICATES, broken, big]
    }

    fn page(&self, name: &str) -> Option<Value> {
        match name {
            "config" => Some(json!({ "node": "node-1" })),
            "certificates" => Some(json!([])),
            "big" => Some(json!("x".repeat(self.big))),
            "broken" => panic!("a page that fails, on purpose"),
            _ => None,
        }
    }
}

struct Pods {
    ready: bool,
}

impl Readiness for Pods {
    fn ready(&self) -> Ready {
        let since = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let pod = |pod: &str, ready, why: &str| PodReady {
            pod: pod.to_owned(),
            uid: format!("uid-{pod}"),
            identity: "spiffe://cluster.local/ns/shop/sa/api".to_owned(),
            ready,
            leaving: false,
            why: why.to_owned(),
            since,
        };
        Ready {
            ready: self.ready,
            why: "1 of 2 pods enrolled".to_owned(),
            detail: vec![
                pod("shop/api-1", true, "enrolled"),
                pod("shop/api-2", false, "its network namespace is gone"),
            ],
        }
    }
}

/// A server on a runtime of its own; it ends with the value.
struct Server {
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
    log: LogHandle,
    telemetry: Telemetry,
    /// The filter lives in it.
    subscriber: tracing::Dispatch,
}

impl Server {
    fn admin() -> Self {
        Self::start(PATIENT, 0, |report, readiness, telemetry, log| Surface::Admin {
            report,
            readiness,
            telemetry,
            log: Some(log),
        })
    }

    fn start(
        limits: Limits,
        big: usize,
        surface: impl FnOnce(Arc<dyn Report>, Arc<dyn Readiness>, Telemetry, LogHandle) -> Surface,
    ) -> Self {
        let (subscriber, log) =
            crate::logging::captured(LogFormat::Text, "info", Box::new(Taken::default()), 10);
        let telemetry = telemetry(TelemetryConfig::default());
        let surface =
            surface(Arc::new(Role { big }), Arc::new(Pods { ready: true }), telemetry.clone(), log.clone());
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move { serve_within(surface, listener, limits).await.unwrap() });
        Self {
            address,
            runtime: Some(runtime),
            log,
            telemetry,
            subscriber: tracing::Dispatch::new(subscriber),
        }
    }

    fn connect(&self) -> StdStream {
        let stream = StdStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }

    /// Sends a request's head and reads until the server closes.
    fn raw(&self, head: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::parse(&bytes)
    }

    fn request(&self, method: &str, target: &str) -> Answer {
        self.with_headers(method, target, &format!("Host: {}\r\n", self.address))
    }

    fn with_headers(&self, method: &str, target: &str, headers: &str) -> Answer {
        self.raw(&format!("{method} {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"))
    }

    fn get(&self, target: &str) -> Answer {
        self.request("GET", target)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}

#[test]
fn the_index_lists_each_page_and_each_listed_page_is_there() {
    let server = Server::admin();
    let index = server.get("/");
    assert_eq!(index.status, 200);
    let paths: Vec<&str> = index.body.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let expected = [
        "/config",
        "/certificates",
        "/broken",
        "/big",
        "/logging",
        "/flows",
        "/metrics",
        "/readyz",
        "/healthz",
    ];
    assert_eq!(paths, expected);
    for path in paths.into_iter().filter(|path| *path != "/broken") {
        // Records come for as long as somebody listens, and a head has none.
        let method = if path == "/flows" { "HEAD" } else { "GET" };
        assert_eq!(server.request(method, path).status, 200, "{path}");
    }
}

#[test]
fn pages_are_json() {
    let page = Server::admin().get("/config");
    assert!(
        page.head.contains("content-type: application/json") && page.head.contains("cache-control: no-store")
    );
    assert_eq!(serde_json::from_str::<Value>(&page.body).unwrap(), json!({ "node": "node-1" }));
}

#[test]
fn head_is_get_without_the_body() {
    let server = Server::admin();
    let (get, head) = (server.get("/config"), server.request("HEAD", "/config"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains(&format!("content-length: {}", get.body.len())), "{}", head.head);
}

#[test]
fn wrong_paths_and_methods_get_404_and_405() {
    let server = Server::admin();
    let missing = server.get("/nowhere");
    assert_eq!(missing.status, 404);
    assert!(missing.body.contains("/nowhere") && missing.body.contains("/config"), "{}", missing.body);
    assert_eq!(server.request("DELETE", "/nowhere").status, 404);
    for path in ["/", "/config", "/metrics", "/readyz", "/healthz/ready"] {
        let refused = server.request("POST", path);
        assert_eq!(refused.status, 405, "{path}");
        assert!(refused.head.contains("allow: get, head"), "{}", refused.head);
    }
    let refused = server.request("PUT", "/logging?level=debug");
    assert_eq!(refused.status, 405);
    assert!(refused.head.contains("allow: get, head, post"), "{}", refused.head);
}

#[test]
fn each_surface_shows_its_own_pages_only() {
    let metrics = Server::start(PATIENT, 0, |_, _, telemetry, _| Surface::Metrics(telemetry));
    assert_eq!(metrics.get("/metrics").status, 200);
    for path in ["/config", "/logging", "/readyz", "/snapshot"] {
        assert_eq!(metrics.get(path).status, 404, "{path}");
    }
    assert_eq!(metrics.request("POST", "/logging?level=trace").status, 404);
    let ready = Server::start(PATIENT, 0, |_, readiness, _, _| Surface::Ready(readiness));
    assert_eq!(ready.get("/readyz").status, 200);
    assert_eq!(ready.get("/metrics").status, 404);
    // Probes and scrapes come by whatever name the cluster calls this node.
    assert_eq!(ready.with_headers("GET", "/readyz", "Host: node-1.example\r\n").status, 200);
    assert_eq!(ready.raw("GET /healthz HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn metrics_are_prometheus_text() {
    let server = Server::admin();
    server.telemetry.policy().rechecked(3);
    let page = server.get("/metrics");
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    assert_eq!(parse(&page.body)["aquifer_policy_rechecks_total"].sum(&[]), 3.0);
}

#[test]
fn readiness_says_why_and_verbose_says_it_of_each_pod() {
    let server = Server::admin();
    assert_eq!(server.get("/readyz").body, "ready: 1 of 2 pods enrolled\n");
    let verbose = server.get("/readyz?verbose").body;
    let expected = "ready: 1 of 2 pods enrolled\nready shop/api-1 (uid-shop/api-1): enrolled\n\
        not ready shop/api-2 (uid-shop/api-2): its network namespace is gone\n";
    assert_eq!(verbose, expected);
    let as_json: Value = serde_json::from_str(&server.get("/readyz?verbose&format=json").body).unwrap();
    assert_eq!(as_json["detail"][1]["pod"], "shop/api-2");
    assert_eq!(as_json["detail"][1]["since"], "2023-11-14T22:13:20Z");
    let not = Server::start(PATIENT, 0, |_, _, _, _| Surface::Ready(Arc::new(Pods { ready: false })));
    let answer = not.get("/readyz");
    assert_eq!((answer.status, answer.body.as_str()), (503, "not ready: 1 of 2 pods enrolled\n"));
    assert_eq!(not.get("/readyz?verbose&format=json").status, 503);
    assert_eq!(not.get("/healthz").status, 200, "it lives, though it is not ready");
}

#[test]
fn flow_records_are_shown_as_they_come_for_longer_than_a_page_may_take() {
    let life = Duration::from_millis(50);
    let server =
        Server::start(Limits { life, last: life, ..PATIENT }, 0, |report, readiness, telemetry, log| {
            Surface::Admin { report, readiness, telemetry, log: Some(log) }
        });
    let mut stream = server.connect();
    let head = format!("GET /flows HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let mut read_until = |text: &str| {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).unwrap();
            assert_ne!(count, 0, "it ended after {:?}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&piece[..count]);
        }
    };
    read_until("\r\n\r\n");
    let began = std::time::Instant::now();
    let mut number = 0;
    while began.elapsed() < life * 4 {
        number += 1;
        tracing::dispatcher::with_default(&server.subscriber, || {
            tracing::info!(target: "flow", number, "a record");
            tracing::info!("no record");
        });
        read_until(&format!("\"target\":\"flow\",\"number\":{number}}}\n"));
    }
    assert!(!String::from_utf8_lossy(&seen).contains("no record"));
}

#[test]
fn flow_records_that_the_filter_holds_back_are_refused_with_a_word() {
    let server = Server::admin();
    server.log.set_filter("info,flow=off").unwrap();
    let answer = server.get("/flows");
    assert_eq!(answer.status, 409);
    assert!(answer.body.contains("POST /logging?level=info"), "{}", answer.body);
}

#[test]
fn the_log_filter_is_shown_and_changed() {
    let server = Server::admin();
    assert_eq!(server.get("/logging").body, "info\n");
    let changed = server.request("POST", "/logging?level=debug%2Cflow%3Doff");
    assert_eq!(changed.status, 200);
    assert!(server.log.filter().contains("flow=off") && server.log.filter().contains("debug"));
    let wrong = server.request("POST", "/logging?level=flow%3Dloud");
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("flow=loud"), "{}", wrong.body);
    assert_eq!(server.request("POST", "/logging").status, 400);
    assert!(server.log.filter().contains("flow=off"), "a wrong one changes nothing");
}

#[test]
fn admin_pages_are_not_for_other_sites() {
    let server = Server::admin();
    for host in ["evil.example", "evil.example:15000", "localhost.evil.example", "127.0.0.1.evil.example"] {
        assert_eq!(server.with_headers("GET", "/config", &format!("Host: {host}\r\n")).status, 403, "{host}");
    }
    for host in ["localhost", "LOCALHOST:15000", "127.0.0.1:15000", "[::1]:15000", "10.0.0.1"] {
        assert_eq!(server.with_headers("GET", "/config", &format!("Host: {host}\r\n")).status, 200, "{host}");
    }
    assert_eq!(server.with_headers("GET", "/config", "").status, 400);
    let own = server.address;
    let post = |origin: &str| {
        let headers = format!("Host: {own}\r\nOrigin: {origin}\r\n");
        server.with_headers("POST", "/logging?level=trace", &headers).status
    };
    for origin in ["http://evil.example", "null", "https://127.0.0.1", "\u{fffd}"] {
        assert_eq!(post(origin), 403, "{origin}");
    }
    assert_eq!(server.log.filter(), "info");
    assert_eq!(post(&format!("http://{own}")), 200);
}

#[test]
fn a_page_that_panics_is_500_and_nothing_else_ends() {
    let server = Server::admin();
    for _ in 0..3 {
        assert_eq!(server.get("/broken").status, 500);
    }
    assert_eq!(server.get("/config").status, 200);
}

#[test]
fn garbage_and_endless_headers_are_refused() {
    let server = Server::admin();
    assert_eq!(server.raw("\u{16}\u{3}\u{1} this is no HTTP\r\n\r\n").status, 400);
    let many = "X: y\r\n".repeat(100);
    assert_eq!(server.with_headers("GET", "/config", &many).status, 431);
    // A header without end: the server answers or closes after 16 KiB, long before this is all sent.
    let mut stream = server.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let flood = vec![b'a'; 1 << 16];
    let refused = (0..1_000).any(|_| stream.write_all(&flood).is_err());
    assert!(refused, "64 MB of header were taken");
    assert_eq!(server.get("/config").status, 200);
}

#[test]
fn a_head_that_does_not_end_is_closed_in_time_and_so_is_an_idle_connection() {
    let limits = Limits { head: Duration::from_millis(200), ..PATIENT };
    let server = Server::start(limits, 0, |_, readiness, _, _| Surface::Ready(readiness));
    let mut slow = server.connect();
    slow.write_all(b"GET /readyz HTTP/1.1\r\nHost:").unwrap();
    let mut silent = server.connect();
    let mut idle = server.connect();
    idle.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    for (stream, what) in [(&mut slow, "slow"), (&mut silent, "silent"), (&mut idle, "idle")] {
        // A read that ends within its timeout of half a minute is a connection that was closed.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(what == "idle", rest.starts_with(b"HTTP/1.1 200"), "{what}: {rest:?}");
    }
}

#[test]
fn slow_callers_on_every_connection_keep_nobody_out() {
    // Their time never runs out here, so only giving up their places lets anybody in.
    let server = Server::start(PATIENT, 0, |_, readiness, _, _| Surface::Ready(readiness));
    let slow: Vec<StdStream> = (0..PATIENT.connections)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(server.get("/readyz").status, 200);
    }
    drop(slow);
}

#[test]
fn a_flood_is_bounded_to_64_connections() {
    let server = Server::start(PATIENT, 0, |_, readiness, _, _| Surface::Ready(readiness));
    let mut flood: Vec<StdStream> = (0..300).map(|_| server.connect()).collect();
    // Accepted in order: when this one is answered, all before it were taken on.
    assert_eq!(server.get("/readyz").status, 200);
    let deadline = Instant::now() + SOON;
    loop {
        let open = flood.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
        if open <= PATIENT.connections {
            break;
        }
        assert!(Instant::now() < deadline, "{open} connections are open");
        thread::yield_now();
    }
}

/// Whether the other side has not closed it.
fn is_open(stream: &mut StdStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn a_reader_that_stops_does_not_keep_its_page_for_ever() {
    const BIG: usize = 64 << 20;
    let short = Duration::from_millis(200);
    let limits = Limits { life: short, last: short, ..PATIENT };
    let server = Server::start(limits, BIG, |report, readiness, telemetry, _| Surface::Admin {
        report,
        readiness,
        telemetry,
        log: None,
    });
    let mut stopped = server.connect();
    stopped.write_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0; 1];
    if stopped.read(&mut first).is_ok_and(|read| read == 1) {
        // The server gives up while we do not read, and then it answers what we send with a reset.
        let deadline = Instant::now() + SOON;
        let error = loop {
            assert!(Instant::now() < deadline, "the server still holds the connection");
            match stopped.write_all(b"x") {
                Ok(()) => thread::yield_now(),
                Err(error) => break error,
            }
        };
        let reset = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind());
        assert!(reset, "the server still holds the connection: {error}");
        let mut rest = Vec::new();
        let _ = stopped.read_to_end(&mut rest);
        assert!(rest.len() < BIG, "all of it came");
    }
    let _ = stopped.shutdown(Shutdown::Both);
}

/// A page that takes as long as a test wants it to.
struct Slow {
    gate: std::sync::Mutex<Receiver<()>>,
}

impl Report for Slow {
    fn pages(&self) -> Vec<Page> {
        vec![pages::SNAPSHOT]
    }

    fn page(&self, _: &str) -> Option<Value> {
        let _ = self.gate.lock().unwrap().recv();
        Some(json!({}))
    }
}

#[test]
fn pages_that_take_long_do_not_hold_up_readiness() {
    let (open, gate) = sync_channel(0);
    let slow: Arc<dyn Report> = Arc::new(Slow { gate: std::sync::Mutex::new(gate) });
    let server = Server::start(PATIENT, 0, |_, readiness, telemetry, _| Surface::Admin {
        report: slow,
        readiness,
        telemetry,
        log: None,
    });
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..5).map(|_| scope.spawn(|| server.get("/snapshot").status)).collect();
        assert_eq!(server.get("/readyz").status, 200);
        drop(open);
        for caller in waiting {
            assert_eq!(caller.join().unwrap(), 200);
        }
    });
}

#[test]
fn dropping_the_future_ends_its_connections() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.block_on(async {
        let serving = tokio::spawn(serve(Surface::Ready(Arc::new(Pods { ready: true })), listener));
        let answered = tokio::task::spawn_blocking(move || {
            let mut stream = StdStream::connect(address).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut first = [0];
            stream.read_exact(&mut first).unwrap();
            stream
        });
        let mut stream = answered.await.unwrap();
        serving.abort();
        let _ = serving.await;
        let ended = tokio::task::spawn_blocking(move || stream.read_to_end(&mut Vec::new()).is_ok());
        assert!(ended.await.unwrap(), "the connection was left open");
        assert!(StdStream::connect(address).is_err(), "the listener was left open");
    });
}
