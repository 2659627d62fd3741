//! Applications on both ends of a copy: bytes, counts, half-close, resets, cuts, and readers that stop.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::tests::support::*;
use crate::{Authority, Config, Connect, ConnectRequest, Tunnel};

const MIB: usize = 1 << 20;

#[derive(Default)]
struct Count {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter for Count {
    fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn options() -> Options<std::future::Pending<Cut>> {
    with_budget(&Budget::new(1 << 30))
}

fn with_budget(budget: &Arc<Budget>) -> Options<std::future::Pending<Cut>> {
    Options { half_close_idle: None, budget: Arc::clone(budget), cut: std::future::pending() }
}

/// Two nodes with a tunnel between them, and a server application behind the second.
struct Nodes {
    tunnel: Tunnel,
    server: TcpListener,
    address: SocketAddr,
    /// How each connection ended at the second node.
    outcomes: mpsc::Receiver<Outcome>,
    budget: Arc<Budget>,
}

/// A connection between both applications.
struct Call {
    client: TcpStream,
    server: TcpStream,
    /// The first node's end of it.
    outcome: tokio::task::JoinHandle<(Outcome, Arc<Count>)>,
    cut: oneshot::Sender<Cut>,
}

async fn nodes(config: Config, budget: Arc<Budget>) -> Nodes {
    let (tunnel, incoming) = pair(&config, &config).await;
    let (server, address) = listen().await;
    let (report, outcomes) = mpsc::channel(64);
    let second = Arc::clone(&budget);
    serve(incoming, move |connect| {
        let (report, budget) = (report.clone(), Arc::clone(&second));
        async move { drop(report.send(inbound(connect, budget).await).await) }
    });
    Nodes { tunnel, server, address, outcomes, budget }
}

async fn inbound(connect: Connect, budget: Arc<Budget>) -> Outcome {
    let Ok(ConnectRequest { authority: Authority::Ip(to), .. }) = connect.request else {
        panic!("no address")
    };
    let app = TcpStream::connect(to).await.unwrap();
    let stream = connect.admit(None).unwrap();
    tunnel(app, Application::Server, stream, Arc::new(()), with_budget(&budget)).await
}

impl Nodes {
    async fn call(&self) -> Call {
        self.call_with(None).await
    }

    async fn call_with(&self, half_close_idle: Option<Duration>) -> Call {
        let (client, captured) = sockets().await;
        let request = ConnectRequest::to(self.address);
        let (opened, accepted) = tokio::join!(self.tunnel.open(&request), self.server.accept());
        let (stream, _) = opened.unwrap();
        let (cut, cuts) = oneshot::channel();
        let cut_by = async move {
            match cuts.await {
                Ok(cut) => cut,
                Err(_) => std::future::pending().await,
            }
        };
        let options = Options { half_close_idle, budget: Arc::clone(&self.budget), cut: cut_by };
        let outcome = tokio::spawn(async move {
            let count = Arc::<Count>::default();
            let meter = Arc::clone(&count);
            let outcome = tunnel(captured, Application::Client, stream, meter, options).await;
            (outcome, count)
        });
        Call { client, server: accepted.unwrap().0, outcome, cut }
    }
}

async fn plain() -> Nodes {
    nodes(Config::default(), Budget::new(1 << 30)).await
}

/// Reads to the end; an error is a reset.
async fn drain(socket: &mut TcpStream) -> Result<usize, io::ErrorKind> {
    let (mut total, mut buffer) = (0, vec![0; 256 << 10]);
    loop {
        match within("a read", socket.read(&mut buffer)).await {
            Ok(0) => return Ok(total),
            Ok(n) => total += n,
            Err(error) => return Err(error.kind()),
        }
    }
}

fn reset(socket: TcpStream) {
    reset_on_close(&socket, true);
    drop(socket);
}

#[tokio::test]
async fn both_directions_at_once_and_every_byte_counted() {
    both_directions_at_once().await;
}

/// The shape is made for one thread; more of them must not lose a wake-up.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn on_several_threads_too() {
    for _ in 0..4 {
        both_directions_at_once().await;
    }
}

async fn both_directions_at_once() {
    let mut nodes = plain().await;
    let call = nodes.call().await;
    let (mut client_reads, mut client_writes) = call.client.into_split();
    let (mut server_reads, mut server_writes) = call.server.into_split();
    let pattern =
        |seed: usize| (0..8 * MIB + 3).map(|n| (n.wrapping_mul(31) ^ seed) as u8).collect::<Vec<u8>>();
    let (up, down) = (pattern(1), pattern(2));
    let (send_up, send_down) = (up.clone(), down.clone());
    let up_task = tokio::spawn(async move {
        client_writes.write_all(&send_up).await.unwrap();
        client_writes.shutdown().await.unwrap();
    });
    let down_task = tokio::spawn(async move {
        server_writes.write_all(&send_down).await.unwrap();
        server_writes.shutdown().await.unwrap();
    });
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    within("the transfers", async {
        let (one, other) =
            tokio::join!(server_reads.read_to_end(&mut got_up), client_reads.read_to_end(&mut got_down));
        one.unwrap();
        other.unwrap();
        up_task.await.unwrap();
        down_task.await.unwrap();
    })
    .await;
    assert!(got_up == up && got_down == down, "the bytes arrived changed");
    let (outcome, count) = within("the first node", call.outcome).await.unwrap();
    assert!(outcome.end.is_ok(), "{outcome:?}");
    assert_eq!((outcome.sent, outcome.received), (up.len() as u64, down.len() as u64));
    let counted = (count.sent.load(Ordering::Relaxed), count.received.load(Ordering::Relaxed));
    assert_eq!(counted, (outcome.sent, outcome.received));
    let outcome = within("the second node", nodes.outcomes.recv()).await.unwrap();
    assert!(outcome.end.is_ok(), "{outcome:?}");
    assert_eq!((outcome.sent, outcome.received), (up.len() as u64, down.len() as u64));
    assert_eq!(nodes.budget.used(), 0);
}

#[tokio::test]
async fn either_side_may_finish_first_and_read_on() {
    for client_first in [true, false] {
        let mut nodes = plain().await;
        let Call { client, server, outcome, .. } = nodes.call().await;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(drain(&mut second).await, Ok(8));
        second.write_all(&vec![0; MIB]).await.unwrap();
        second.shutdown().await.unwrap();
        assert_eq!(drain(&mut first).await, Ok(MIB));
        let (outcome, _) = within("the first node", outcome).await.unwrap();
        let expected = if client_first { Closer::Client } else { Closer::Server };
        assert_eq!((outcome.closed_by, outcome.end.is_ok()), (expected, true));
        let outcome = within("the second node", nodes.outcomes.recv()).await.unwrap();
        assert_eq!((outcome.closed_by, outcome.end.is_ok()), (expected, true));
    }
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    for client_resets in [true, false] {
        let mut nodes = plain().await;
        let Call { mut client, mut server, outcome, .. } = nodes.call().await;
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        let (resetting, mut other) = if client_resets { (client, server) } else { (server, client) };
        reset(resetting);
        assert_eq!(drain(&mut other).await, Err(io::ErrorKind::ConnectionReset));
        let (near, _) = within("the first node", outcome).await.unwrap();
        let far = within("the second node", nodes.outcomes.recv()).await.unwrap();
        let expected = if client_resets { Closer::Client } else { Closer::Server };
        assert_eq!((near.closed_by, far.closed_by), (expected, expected));
        let (broke, told) = if client_resets { (near, far) } else { (far, near) };
        let (broke, told) = (broke.end.unwrap_err(), told.end.unwrap_err());
        let hop = if client_resets { Hop::Client } else { Hop::Server };
        assert_eq!((broke.code(), broke.hop()), ("connection-reset", hop));
        assert_eq!((told.code(), told.hop()), ("peer-reset", Hop::Tunnel));
    }
}

#[tokio::test]
async fn a_reset_after_the_other_side_finished_arrives() {
    let nodes = plain().await;
    let Call { mut client, mut server, outcome, .. } = nodes.call().await;
    server.shutdown().await.unwrap();
    assert_eq!(drain(&mut client).await, Ok(0));
    // The client only listens now, and the server goes away for good.
    reset(server);
    client.write_all(b"into the void").await.unwrap();
    assert_eq!(drain(&mut client).await, Ok(0));
    let (outcome, _) = within("the first node", outcome).await.unwrap();
    assert_eq!((outcome.closed_by, outcome.end.unwrap_err().code()), (Closer::Server, "peer-reset"));
}

#[tokio::test]
async fn a_tunnel_that_dies_in_a_download_is_a_reset_never_an_end() {
    let nodes = plain().await;
    let Call { mut client, mut server, outcome, .. } = nodes.call().await;
    server.write_all(b"the first half").await.unwrap();
    client.read_exact(&mut [0; 14]).await.unwrap();
    nodes.tunnel.cut();
    assert_eq!(drain(&mut client).await, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(drain(&mut server).await, Err(io::ErrorKind::ConnectionReset));
    let (outcome, _) = within("the first node", outcome).await.unwrap();
    assert_eq!((outcome.closed_by, outcome.end.unwrap_err().code()), (Closer::Proxy, "tunnel-failed"));
    assert_eq!(outcome.received, 14);
}

#[tokio::test]
async fn a_cut_resets_both_applications_and_says_why() {
    let nodes = plain().await;
    let Call { mut client, mut server, outcome, cut } = nodes.call().await;
    cut.send(Cut { code: "policy-changed", text: "AuthorizationPolicy shop/web denies it now".into() })
        .unwrap();
    assert_eq!(drain(&mut client).await, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(drain(&mut server).await, Err(io::ErrorKind::ConnectionReset));
    let (outcome, _) = within("the first node", outcome).await.unwrap();
    let error = outcome.end.unwrap_err();
    assert_eq!((outcome.closed_by, error.code(), error.hop()), (Closer::Proxy, "policy-changed", Hop::Proxy));
}

#[tokio::test]
async fn half_closed_and_idle_is_reset_and_moving_is_not() {
    let nodes = plain().await;
    let idle = Duration::from_millis(300);
    let Call { mut client, mut server, outcome, .. } = nodes.call_with(Some(idle)).await;
    client.shutdown().await.unwrap();
    let started = Instant::now();
    while started.elapsed() < 2 * idle {
        server.write_all(b"x").await.unwrap();
        within("a byte", client.read_exact(&mut [0])).await.unwrap();
        tokio::time::sleep(idle / 10).await;
    }
    assert_eq!(drain(&mut client).await, Err(io::ErrorKind::ConnectionReset));
    let (outcome, _) = within("the first node", outcome).await.unwrap();
    assert_eq!(outcome.end.unwrap_err().code(), "half-close-idle");
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_writer_back() {
    let nodes = plain().await;
    let Call { mut client, mut server, outcome, .. } = nodes.call().await;
    let mut written = 0;
    let piece = vec![5; 64 << 10];
    // Until nothing fits for a while: sockets, windows and buffers are full.
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(300), client.write_all(&piece)).await {
        result.unwrap();
        written += piece.len();
        assert!(written < 64 * MIB, "nothing holds the writer back");
    }
    // At least half a window: what was taken and not yet told to the peer is not used.
    assert!(nodes.budget.used() >= 2 * MIB, "the unread bytes are counted: {}", nodes.budget.used());
    // What the kernel took of the last piece counts too, so the client's end tells the sum.
    drop(client.into_split().1);
    let got = drain(&mut server).await.unwrap();
    assert!(got >= written && got < written + piece.len());
    server.shutdown().await.unwrap();
    let (outcome, _) = within("the first node", outcome).await.unwrap();
    assert_eq!(outcome.sent, got as u64);
    until("all is given back", || nodes.budget.used() == 0).await;
}

/// The bytes of twenty downloads that nobody reads are over the cap; a twenty-first moves on.
#[tokio::test]
async fn stopped_readers_are_reset_past_the_cap_and_the_others_move_on() {
    let cap = 24 * MIB;
    let budget = Budget::new(cap);
    let nodes = nodes(Config::default(), Arc::clone(&budget)).await;
    let mut stopped = Vec::new();
    for _ in 0..20 {
        let Call { client, mut server, outcome, .. } = nodes.call().await;
        let writer = tokio::spawn(async move {
            let piece = vec![1; 256 << 10];
            while server.write_all(&piece).await.is_ok() {}
        });
        stopped.push((client, writer, outcome));
    }
    until("the cap to act", || budget.resets() > 0).await;
    let Call { mut client, mut server, .. } = nodes.call().await;
    tokio::spawn(async move {
        let piece = vec![2; 256 << 10];
        for _ in 0..400 {
            server.write_all(&piece).await.unwrap();
        }
        server.shutdown().await.unwrap();
        drain(&mut server).await
    });
    let (mut total, mut peak, mut buffer) = (0, 0, vec![0; 256 << 10]);
    loop {
        let n = within("the download", client.read(&mut buffer)).await.unwrap();
        if n == 0 {
            break;
        }
        total += n;
        peak = peak.max(budget.used());
    }
    assert_eq!(total, 100 * MIB);
    // What is doomed stands until its task has run: one turn's worth of reading.
    assert!(peak <= cap + 2 * MIB, "peak {peak} over a cap of {cap}");
    let resets = usize::try_from(budget.resets()).unwrap();
    assert!((10..20).contains(&resets), "{resets} of 20 readers were reset");
    let mut ended = 0;
    for (client, writer, outcome) in stopped {
        if outcome.is_finished() {
            let (outcome, _) = outcome.await.unwrap();
            assert_eq!(outcome.end.unwrap_err().code(), "reader-stopped");
            within("the writer hears of it", writer).await.unwrap();
            ended += 1;
        } else {
            writer.abort();
        }
        drop(client);
    }
    assert_eq!(ended, resets);
}

#[tokio::test]
async fn small_writes_to_a_stopped_reader_end_no_tunnel() {
    let nodes = plain().await;
    let stopped = nodes.call().await;
    let (mut client, _server) = (stopped.client, stopped.server);
    // The frames of a peer that does not coalesce: a hundred bytes each, more of them than any frame budget holds.
    let writer = tokio::spawn(async move {
        for _ in 0..100_000 {
            if client.write_all(&[7; 100]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let mut other = nodes.call().await;
    for _ in 0..1000 {
        other.client.write_all(b"ping").await.unwrap();
        within("the echo", other.server.read_exact(&mut [0; 4])).await.unwrap();
    }
    assert!(nodes.tunnel.usable());
    writer.abort();
}

#[tokio::test]
async fn direct_carries_both_ways_and_half_close() {
    let (mut client, captured) = sockets().await;
    let (onward, mut server) = sockets().await;
    let copy = tokio::spawn(async move { direct(captured, onward, &(), options()).await });
    let up = vec![3; 5 * MIB + 1];
    let writer = tokio::spawn(async move {
        client.write_all(&up).await.unwrap();
        client.shutdown().await.unwrap();
        drain(&mut client).await
    });
    assert_eq!(drain(&mut server).await, Ok(5 * MIB + 1));
    server.write_all(&vec![4; 3 * MIB]).await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(within("the client", writer).await.unwrap(), Ok(3 * MIB));
    let outcome = within("the copy", copy).await.unwrap();
    assert!(outcome.end.is_ok(), "{outcome:?}");
    assert_eq!((outcome.sent, outcome.received), ((5 * MIB + 1) as u64, (3 * MIB) as u64));
    assert_eq!(outcome.closed_by, Closer::Client);
}

#[tokio::test]
async fn direct_passes_resets_on() {
    for client_resets in [true, false] {
        let (client, captured) = sockets().await;
        let (onward, server) = sockets().await;
        let copy = tokio::spawn(async move { direct(captured, onward, &(), options()).await });
        let (resetting, mut other) = if client_resets { (client, server) } else { (server, client) };
        reset(resetting);
        assert_eq!(drain(&mut other).await, Err(io::ErrorKind::ConnectionReset));
        let outcome = within("the copy", copy).await.unwrap();
        let (hop, closer) =
            if client_resets { (Hop::Client, Closer::Client) } else { (Hop::Server, Closer::Server) };
        assert_eq!((outcome.end.unwrap_err().hop(), outcome.closed_by), (hop, closer));
    }
}

#[tokio::test]
async fn direct_to_a_stopped_reader_holds_little_and_counts_it() {
    let budget = Budget::new(1 << 30);
    let (mut client, captured) = sockets().await;
    let (onward, mut server) = sockets().await;
    let options = with_budget(&budget);
    let copy = tokio::spawn(async move { direct(captured, onward, &(), options).await });
    let piece = vec![5; 64 << 10];
    while tokio::time::timeout(Duration::from_millis(200), client.write_all(&piece)).await.is_ok() {}
    assert!((1..=64 << 10).contains(&budget.used()), "{}", budget.used());
    client.shutdown().await.unwrap();
    let got = drain(&mut server).await.unwrap();
    server.shutdown().await.unwrap();
    let outcome = within("the copy", copy).await.unwrap();
    assert_eq!((outcome.sent, outcome.end.is_ok()), (got as u64, true));
    assert_eq!(budget.used(), 0);
}
