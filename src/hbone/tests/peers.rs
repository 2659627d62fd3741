//! Against `h2`, in both roles, over real TLS: every byte, whatever windows, frames and ends the peer chooses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::task::JoinSet;

use super::support::*;
use crate::*;

/// The bytes of a transfer: told apart by their place, and by the transfer they belong to.
pub(super) fn pattern(seed: usize, from: usize, len: usize) -> Bytes {
    let unit: [u8; 251] = std::array::from_fn(|at| at as u8 ^ seed as u8);
    let (mut bytes, mut at) = (Vec::with_capacity(len), from % 251);
    while bytes.len() < len {
        bytes.extend_from_slice(&unit[at..251.min(at + len - bytes.len())]);
        at = 0;
    }
    bytes.into()
}

/// Odd sizes, so that frames, records and windows never fall together.
fn sizes(total: usize) -> impl Iterator<Item = usize> {
    let mut left = total;
    [1, 16_385, 100, 40_001, 7, 123_457].into_iter().cycle().map_while(move |size| {
        let size = size.min(left);
        left -= size;
        (size > 0).then_some(size)
    })
}

/// Sends a transfer and ends it.
async fn give_raw(mut send: h2::SendStream<Bytes>, seed: usize, total: usize) -> Result<(), h2::Error> {
    let mut at = 0;
    for size in sizes(total) {
        let mut piece = pattern(seed, at, size);
        at += size;
        while !piece.is_empty() {
            send.reserve_capacity(piece.len());
            match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(room) => send.send_data(piece.split_to(room?.min(piece.len())), false)?,
                None => return Ok(()),
            }
        }
    }
    send.send_data(Bytes::new(), true)
}

/// Takes a transfer to its end, and gives the windows back; how many bytes it had.
async fn get_raw(mut body: h2::RecvStream, seed: usize) -> Result<usize, h2::Error> {
    let mut at = 0;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        assert_eq!(piece, pattern(seed, at, piece.len()), "at {at}");
        at += piece.len();
        body.flow_control().release_capacity(piece.len())?;
    }
    Ok(at)
}

/// Sends the pattern in pieces of odd sizes, and ends.
async fn give(stream: &mut Stream, seed: usize, total: usize) {
    let mut at = 0;
    for size in sizes(total) {
        stream.send(pattern(seed, at, size)).await.unwrap();
        at += size;
    }
    stream.finish().unwrap();
}

async fn get(stream: &mut Stream, seed: usize) -> Result<usize, StreamError> {
    let mut at = 0;
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        assert_eq!(piece, pattern(seed, at, piece.len()), "at {at}");
        at += piece.len();
    }
    Ok(at)
}

/// Both directions at once, as one task: half of what has come is sent back at most, and then all.
async fn both(stream: &mut Stream, up: usize, down: usize, total: usize) -> Result<(), StreamError> {
    let (mut at, mut sizes, mut seen) = (0, sizes(total), 0);
    let mut next = sizes.next();
    loop {
        tokio::select! {
            biased;
            piece = stream.data(), if seen < total => {
                let Some(piece) = piece else { break };
                let piece = piece?;
                assert_eq!(piece, pattern(down, seen, piece.len()), "at {seen}");
                seen += piece.len();
            }
            () = std::future::ready(()), if next.is_some() => {
                let size = next.unwrap_or_default();
                // Waits for windows in small steps only: the other direction goes on meanwhile.
                let piece = pattern(up, at, size);
                stream.send(piece).await?;
                at += size;
                next = sizes.next();
                if next.is_none() {
                    stream.finish()?;
                }
            }
            else => break,
        }
        tokio::task::yield_now().await;
    }
    assert_eq!((at, seen), (total, total));
    assert_eq!(stream.data().await, None);
    Ok(())
}

fn connect() -> Request<()> {
    Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").body(()).unwrap()
}

/// An `h2` server on the next connection: each request is answered, and `work` is done with both directions.
fn raw_service<F>(
    listener: tokio::net::TcpListener,
    builder: h2::server::Builder,
    steer: impl FnMut(&mut RawServer) + Send + 'static,
    work: impl FnMut(h2::RecvStream, h2::SendStream<Bytes>) -> F + Send + 'static,
) -> tokio::task::JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut steer, mut work) = (steer, work);
    tokio::spawn(async move {
        let mut server = raw_server(&listener, &builder).await;
        while let Some(Ok((request, mut respond))) = server.accept().await {
            let send = respond.send_response(Response::new(()), false).unwrap();
            tokio::spawn(work(request.into_body(), send));
            steer(&mut server);
        }
    })
}

/// Our server on the next connection.
fn our_service<F>(
    listener: tokio::net::TcpListener,
    config: Config,
    work: impl FnMut(Connect) -> F + Send + 'static,
) -> tokio::task::JoinHandle<Control>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let accepted = accept(io, Arc::clone(&mesh().server), chain_length, &config).await;
        serve(accepted.unwrap().0, work)
    })
}

/// Windows and frames of a raw peer, from tight to wide.
const SHAPES: [(u32, u32, u32); 4] = [
    (1_000, 65_535, 16_384),
    (65_535, 70_001, 16_384),
    (300_007, 400_009, 1 << 20),
    (4 << 20, 8 << 20, (1 << 24) - 1),
];
const TOTAL: usize = 700_007;

#[tokio::test]
async fn bulk_both_ways_with_an_h2_server_of_any_windows() {
    for (window, connection, frame) in SHAPES {
        let (listener, address) = listen().await;
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(connection).max_frame_size(frame);
        raw_service(
            listener,
            builder,
            |_| (),
            |body, send| async move {
                let (got, gave) = tokio::join!(get_raw(body, 1), give_raw(send, 2, TOTAL));
                gave.unwrap();
                assert_eq!(got.unwrap(), TOTAL);
            },
        );
        let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
        let mut streams = JoinSet::new();
        for _ in 0..2 {
            let tunnel = tunnel.clone();
            streams.spawn(async move {
                let (mut stream, _) = tunnel.open(&request()).await.unwrap();
                both(&mut stream, 1, 2, TOTAL).await.unwrap();
            });
        }
        within("all of it", streams.join_all()).await;
    }
}

#[tokio::test]
async fn bulk_both_ways_with_an_h2_client_of_any_windows() {
    for (window, connection, frame) in SHAPES {
        let (listener, address) = listen().await;
        // Windows of ours that are small, too.
        let config = Config { stream_window: window.max(65_535), ..Config::default() };
        our_service(listener, config, |connect| async move {
            let mut stream = connect.admit(None).unwrap();
            both(&mut stream, 2, 1, TOTAL).await.unwrap();
        });
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(connection).max_frame_size(frame);
        let (requests, _connection) = raw_client(address, &builder).await;
        let mut streams = JoinSet::new();
        for _ in 0..2 {
            let mut requests = requests.clone().ready().await.unwrap();
            streams.spawn(async move {
                let (response, send) = requests.send_request(connect(), false).unwrap();
                let body = response.await.unwrap().into_body();
                let (got, gave) = tokio::join!(get_raw(body, 2), give_raw(send, 1, TOTAL));
                gave.unwrap();
                assert_eq!(got.unwrap(), TOTAL);
            });
        }
        within("all of it", streams.join_all()).await;
    }
}

#[tokio::test]
async fn an_h2_server_changes_its_window_in_mid_flight() {
    let (listener, address) = listen().await;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(200_000).initial_connection_window_size(1 << 20);
    tokio::spawn(async move {
        let mut server = raw_server(&listener, &builder).await;
        let mut windows = [0, 5_000, 1 << 20, 100, 65_535].into_iter().cycle();
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                next = server.accept() => {
                    let Some(Ok((request, mut respond))) = next else { return };
                    let send = respond.send_response(Response::new(()), false).unwrap();
                    tokio::spawn(async move {
                        assert_eq!(get_raw(request.into_body(), 3).await.unwrap(), 4 * TOTAL);
                        give_raw(send, 4, 5).await.unwrap();
                    });
                }
                // One at a time: the one before may still have no ACK.
                _ = tick.tick() => drop(server.set_initial_window_size(windows.next().unwrap_or_default())),
            }
        }
    });
    let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
    let mut streams = JoinSet::new();
    for _ in 0..3 {
        let tunnel = tunnel.clone();
        streams.spawn(async move {
            let (mut stream, _) = tunnel.open(&request()).await.unwrap();
            give(&mut stream, 3, 4 * TOTAL).await;
            assert_eq!(get(&mut stream, 4).await, Ok(5));
        });
    }
    within("all of it", streams.join_all()).await;
}

#[tokio::test]
async fn an_h2_client_changes_its_window_in_mid_flight() {
    let (listener, address) = listen().await;
    our_service(listener, Config::default(), |connect| async move {
        let mut stream = connect.admit(None).unwrap();
        give(&mut stream, 3, 4 * TOTAL).await;
        assert_eq!(get(&mut stream, 4).await, Ok(5));
    });
    let (requests, mut connection) = raw_connection(address, &h2::client::Builder::new()).await;
    let driver = tokio::spawn(async move {
        let mut windows = [0, 5_000, 1 << 20, 100, 65_535].into_iter().cycle();
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                ended = &mut connection => return ended,
                _ = tick.tick() => drop(connection.set_initial_window_size(windows.next().unwrap_or_default())),
            }
        }
    });
    let mut streams = JoinSet::new();
    for _ in 0..3 {
        let mut requests = requests.clone().ready().await.unwrap();
        streams.spawn(async move {
            let (response, send) = requests.send_request(connect(), false).unwrap();
            assert_eq!(get_raw(response.await.unwrap().into_body(), 3).await.unwrap(), 4 * TOTAL);
            give_raw(send, 4, 5).await.unwrap();
        });
    }
    within("all of it", streams.join_all()).await;
    driver.abort();
}

/// Headers of h2's encoder: Huffman, a table that fills up and is evicted, and blocks that need CONTINUATION.
#[tokio::test]
async fn thousands_of_requests_of_h2_s_encoder_are_understood() {
    let (listener, address) = listen().await;
    let config = Config { header_list: 60_000, ..Config::default() };
    our_service(listener, config, |connect| async move {
        let Ok(ConnectRequest { authority, baggage, forwarded, .. }) = &connect.request else {
            panic!("{:?}", connect.request)
        };
        // What was asked comes back in words.
        let said = format!(
            "{authority} {:?} {:?}",
            baggage.clone().and_then(|b| b.namespace),
            forwarded.clone().map(|f| f.source)
        );
        connect.refuse(503, "echo", &said);
    });
    let mut builder = h2::client::Builder::new();
    builder.max_header_list_size(1 << 20);
    let (mut requests, _connection) = raw_client(address, &builder).await;
    for n in 0..2_000_u32 {
        requests = requests.ready().await.unwrap();
        let mut request =
            Request::builder().method(Method::CONNECT).uri(format!("10.0.{}.{}:80", n % 7, n % 200));
        request = request.header("baggage", format!("k8s.namespace.name=ns{},other={n}", n % 50));
        request = request.header("forwarded", format!("for=\"10.9.{}.{}:4{}\"", n / 256, n % 256, n % 10));
        if n % 200 == 7 {
            // Past a frame's size, so it needs CONTINUATION.
            for part in 0..9 {
                request = request.header(format!("x-{part}"), "~long-".repeat(700 + n as usize % 13));
            }
        }
        let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
        let response = within("the answer", response).await.unwrap();
        let reason = response.headers()[REASON_HEADER].to_str().unwrap().to_owned();
        let expected = format!(
            "echo; 10.0.{}.{}:80 Some(\"ns{}\") Some(10.9.{}.{}:4{})",
            n % 7,
            n % 200,
            n % 50,
            n / 256,
            n % 256,
            n % 10
        );
        assert_eq!(reason, expected);
    }
}

/// Answers of h2's encoder, and requests of ours that need CONTINUATION.
#[tokio::test]
async fn long_requests_and_many_answers_pass_between_h2_s_server_and_us() {
    let (listener, address) = listen().await;
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(1 << 20);
    tokio::spawn(async move {
        let mut server = raw_server(&listener, &builder).await;
        let mut n = 0;
        while let Some(Ok((request, mut respond))) = server.accept().await {
            let long = request.headers().get("baggage").map_or(0, |value| value.len());
            let answer =
                Response::builder().header("baggage", format!("k8s.namespace.name=ns{},long={long}", n % 90));
            let answer = answer.header("x-answer", "value ".repeat(n % 40));
            n += 1;
            respond.send_response(answer.body(()).unwrap(), true).unwrap();
        }
    });
    let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
    for n in 0..1_000 {
        // Names are at most 253 long, but escapes triple them: eight of those are more than a frame would be at 16 KiB.
        let name = Some(Box::<str>::from("é".repeat(120)));
        let baggage = Baggage { namespace: name.clone(), service: name, ..Baggage::default() };
        let ours = ConnectRequest { baggage: (n % 2 == 0).then_some(baggage), ..request() };
        let (mut stream, reply) = within("open", tunnel.open(&ours)).await.unwrap();
        let namespace = reply.baggage.and_then(|baggage| baggage.namespace);
        assert_eq!(namespace.as_deref(), Some(&*format!("ns{}", n % 90)));
        assert_eq!(stream.data().await, None);
    }
}

#[tokio::test]
async fn goaway_of_an_h2_server_lets_streams_end_or_ends_them() {
    for abrupt in [false, true] {
        let (listener, address) = listen().await;
        raw_service(
            listener,
            h2::server::Builder::new(),
            move |server| match abrupt {
                true => server.abrupt_shutdown(h2::Reason::INTERNAL_ERROR),
                false => server.graceful_shutdown(),
            },
            |body, send| async move {
                let got = get_raw(body, 1).await;
                if got.is_ok() {
                    let _ = give_raw(send, 2, 100_000).await;
                }
            },
        );
        let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
        let closed = tunnel.closed();
        let opened = within("open", tunnel.open(&request())).await;
        until("GOAWAY", || !tunnel.usable()).await;
        if abrupt {
            if let Ok((mut stream, _)) = opened {
                assert!(within("the end", stream.data()).await.unwrap().is_err());
            }
            assert!(matches!(within("the tunnel's end", closed).await, CloseReason::Failed(_)));
            continue;
        }
        let (mut stream, _) = opened.unwrap();
        within("send", stream.send(pattern(1, 0, 50_000))).await.unwrap();
        stream.finish().unwrap();
        assert_eq!(within("the rest", get(&mut stream, 2)).await, Ok(100_000));
        drop(stream);
        assert_eq!(within("the tunnel's end", closed).await, CloseReason::PeerClosed);
    }
}

/// Also PINGs of h2's own.
#[tokio::test]
async fn drain_and_ping_with_an_h2_client() {
    let (listener, address) = listen().await;
    let service = our_service(listener, Config::default(), echo);
    let (mut requests, mut connection) = raw_connection(address, &h2::client::Builder::new()).await;
    let mut pings = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    let control = within("accept", service).await.unwrap();
    for _ in 0..20 {
        within("an answer", pings.ping(h2::Ping::opaque())).await.unwrap();
    }
    let (response, mut send) = requests.send_request(connect(), false).unwrap();
    let mut body = within("the answer", response).await.unwrap().into_body();
    control.drain();
    // h2 stops to open streams at the first GOAWAY.
    within("GOAWAY", async {
        while let Ok(ready) = requests.clone().ready().await {
            drop(ready);
            tokio::task::yield_now().await;
        }
    })
    .await;
    send.send_data(Bytes::from_static(b"still here"), true).unwrap();
    let mut back = Vec::new();
    while let Some(piece) = within("the echo", body.data()).await {
        back.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(back, b"still here");
    drop((body, send, requests));
    within("the connection's end", connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_limit_of_streams_that_an_h2_server_lowers_is_kept() {
    let (listener, address) = listen().await;
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(3);
    raw_service(
        listener,
        builder,
        |_| (),
        |body, send| async move {
            let _ = get_raw(body, 1).await;
            let _ = give_raw(send, 2, 1000).await;
        },
    );
    let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
    let mut opened = Vec::new();
    for _ in 0..3 {
        opened.push(within("open", tunnel.open(&request())).await.unwrap().0);
    }
    assert!(!tunnel.usable());
    // h2 answers with REFUSED_STREAM whoever goes past its limit: nobody does, however fast streams come and go.
    for n in 0..300 {
        let mut stream = opened.remove(0);
        if n % 3 == 0 {
            drop(stream);
        } else {
            stream.finish().unwrap();
            assert_eq!(within("the rest", get(&mut stream, 2)).await, Ok(1000));
            drop(stream);
        }
        opened.push(within("open", tunnel.open(&request())).await.unwrap().0);
    }
}

/// Of a hundred streams some are reset, by either side, wherever they are; what was not arrives to the last byte.
#[tokio::test]
async fn resets_at_any_moment_leave_the_neighbours_alone() {
    const EACH: usize = 60_000;
    // Stream n is reset: not at all, by h2, by us; after so many bytes.
    let plan = |n: usize| (n % 3, (n * 7919) % EACH);
    let (listener, address) = listen().await;
    let mut next = 0;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(20_000).initial_connection_window_size(100_000).max_concurrent_streams(200);
    raw_service(
        listener,
        builder,
        |_| (),
        move |mut body, mut send| {
            let n = next;
            next += 1;
            async move {
                let (who, after) = plan(n);
                if who == 1 {
                    let mut got = 0;
                    while got < after {
                        let Some(Ok(piece)) = body.data().await else { return };
                        assert_eq!(piece, pattern(n, got, piece.len()));
                        got += piece.len();
                        let _ = body.flow_control().release_capacity(piece.len());
                    }
                    send.send_reset(h2::Reason::CANCEL);
                    return;
                }
                let (got, gave) = tokio::join!(get_raw(body, n), give_raw(send, n + 100, EACH));
                if who == 0 {
                    gave.unwrap();
                    assert_eq!(got.unwrap(), EACH);
                }
            }
        },
    );
    let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
    let mut streams = JoinSet::new();
    for n in 0..100 {
        // One after the other, so that both sides count alike; then all at once.
        let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
        streams.spawn(async move {
            match plan(n) {
                (0, _) => both(&mut stream, n, n + 100, EACH).await.unwrap(),
                (1, _) => assert!(both(&mut stream, n, n + 100, EACH).await.is_err()),
                (_, after) => {
                    let mut got = 0;
                    while got < after {
                        let piece = stream.data().await.unwrap().unwrap();
                        assert_eq!(piece, pattern(n + 100, got, piece.len()));
                        got += piece.len();
                    }
                    stream.reset(ResetReason::CANCEL);
                }
            }
        });
    }
    within("all of them", streams.join_all()).await;
    assert!(tunnel.usable());
    until("all are gone", || tunnel.active() == 0).await;
}
