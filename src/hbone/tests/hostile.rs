//! Peers that send too much, allow too little, or do not read; each is a raw `h2` endpoint where the product's own half
//! would not behave that badly.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};

use super::support::*;
use crate::*;

/// Serves one tunnel on a loopback port with the product's half; what ends the tunnel comes out of the task.
async fn product<F>(
    config: Config,
    mut work: impl FnMut(Connect) -> F + Send + 'static,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<Option<TunnelError>>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen().await;
    let task = tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let accepted = accept(io, Arc::clone(&mesh().server), chain_length, &config).await;
        let (mut incoming, _) = match accepted {
            Ok(accepted) => accepted,
            // What came together with the greeting was enough.
            Err(AcceptError::Http2(reason)) => return Some(TunnelError(reason)),
            Err(error) => panic!("{error:?}"),
        };
        while let Some(next) = incoming.next().await {
            match next {
                Ok(connect) => drop(tokio::spawn(work(connect))),
                Err(error) => return Some(error),
            }
        }
        None
    });
    (address, task)
}

fn connect() -> Request<()> {
    Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").body(()).unwrap()
}

fn with_headers(count: usize) -> Request<()> {
    let mut request = connect();
    for n in 0..count {
        let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
        request.headers_mut().insert(name, "y".repeat(1000).parse().unwrap());
    }
    request
}

#[tokio::test]
async fn too_many_headers_are_refused_and_the_tunnel_lives() {
    let (address, _server) = product(Config::default(), echo).await;
    let (mut requests, _connection) = raw_client(address, &h2::client::Builder::new()).await;
    let (response, _send) = requests.send_request(with_headers(20), false).unwrap();
    assert_eq!(within("the refusal", response).await.unwrap().status(), 431);
    let (response, _send) = requests.send_request(connect(), false).unwrap();
    assert_eq!(within("an honest request", response).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_flood_of_headers_ends_the_tunnel() {
    let (address, server) = product(Config::default(), echo).await;
    let (mut requests, _connection) = raw_client(address, &h2::client::Builder::new()).await;
    let (response, _send) = requests.send_request(with_headers(200), false).unwrap();
    assert!(within("the answer", response).await.is_err());
    let ended = within("the end of the tunnel", server).await.unwrap();
    assert!(matches!(ended, Some(TunnelError(CloseReason::Failed(_)))), "{ended:?}");
}

#[tokio::test]
async fn other_requests_than_connect_are_shown_as_such() {
    let (address, _server) = product(Config::default(), |connect| async move {
        match &connect.request {
            Err(error) => {
                let (code, text) = (error.code(), error.to_string());
                connect.refuse(400, code, &text);
            }
            Ok(_) => echo(connect).await,
        }
    })
    .await;
    let (mut requests, _connection) = raw_client(address, &h2::client::Builder::new()).await;
    let get = Request::get("https://10.0.0.1:80/").body(()).unwrap();
    let (response, _send) = requests.send_request(get, true).unwrap();
    let response = within("the answer", response).await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()[REASON_HEADER], "not-connect; the method is not CONNECT");
}

#[tokio::test]
async fn past_the_limit_of_streams_requests_are_refused_unseen() {
    let config = Config { server_streams: 3, ..Config::default() };
    let (address, _server) = product(config, echo).await;
    let (requests, _connection) = raw_client(address, &h2::client::Builder::new()).await;
    let mut requests = requests.ready().await.unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        let (response, send) = requests.send_request(connect(), false).unwrap();
        open.push((within("an answer", response).await.unwrap(), send));
    }
    // A polite client queues the fourth; the limit it read is the server's.
    assert_eq!(requests.current_max_send_streams(), 3);
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_tunnel() {
    let (address, server) = product(Config::default(), echo).await;
    let (mut requests, connection) = raw_client(address, &h2::client::Builder::new()).await;
    let flood = tokio::spawn(async move {
        loop {
            requests = match requests.ready().await {
                Ok(requests) => requests,
                Err(error) => return error,
            };
            match requests.send_request(connect(), false) {
                Ok((_, mut send)) => send.send_reset(h2::Reason::CANCEL),
                Err(error) => return error,
            }
            tokio::task::yield_now().await;
        }
    });
    let ended = within("the end of the tunnel", server).await.unwrap();
    assert!(
        matches!(&ended, Some(TunnelError(CloseReason::Failed(text))) if text.contains("excessive load")),
        "{ended:?}"
    );
    within("the flood", flood).await.unwrap();
    connection.abort();
}

#[tokio::test]
async fn small_frames_that_are_read_never_end_a_tunnel() {
    const FRAMES: usize = 60_000;
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, echo);
    let (stream, _) = tunnel.open(&request()).await.unwrap();
    let (mut stream, mut back) = (stream, 0);
    // Both ways at once, a byte a frame.
    let mut sent = 0;
    while back < FRAMES {
        while sent < FRAMES && sent - back < 500 {
            within("send", stream.send(Bytes::from_static(b"x"))).await.unwrap();
            sent += 1;
        }
        back += within("the echo", stream.data()).await.unwrap().unwrap().len();
    }
    assert_eq!(back, FRAMES);
    assert!(tunnel.usable());
}

#[tokio::test]
async fn a_peer_that_stops_reading_stops_the_sender_and_costs_a_bounded_amount() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let mut server = raw_server(&listener, &h2::server::Builder::new()).await;
        let (_request, mut respond) = server.accept().await.unwrap().unwrap();
        let send = respond.send_response(http::Response::new(()), false).unwrap();
        // Lets the answer out, and then never touches the connection again.
        let flush = std::future::poll_fn(|cx| server.poll_closed(cx));
        let _ = tokio::time::timeout(Duration::from_millis(50), flush).await;
        (server, send)
    });
    let config = Config {
        ping: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(150),
        ..Config::default()
    };
    let (tunnel, _) = within("dial", dial_to(address, &config)).await.unwrap();
    let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
    let _stalled = within("the server", server).await.unwrap();
    let sent = within("send", stream.send(Bytes::from(vec![0; 1 << 20]))).await;
    // The default window of 64 KiB took some; the rest waited until the PING had no answer.
    assert!(matches!(sent, Err(StreamError::Tunnel(_))), "{sent:?}");
    assert_eq!(within("the tunnel's end", tunnel.closed()).await, CloseReason::Dead);
}

#[tokio::test]
async fn a_client_that_vanishes_is_found_out() {
    let config = Config {
        ping: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(150),
        ..Config::default()
    };
    let (address, server) = product(config, echo).await;
    let (mut requests, mut connection) = raw_connection(address, &h2::client::Builder::new()).await;
    let (response, _send) = requests.send_request(connect(), false).unwrap();
    within("the answer", async {
        tokio::select! {
            response = response => response.unwrap(),
            ended = &mut connection => panic!("{ended:?}"),
        }
    })
    .await;
    // The connection is kept and never polled again, as if the node had lost power.
    let ended = within("the server", server).await.unwrap();
    assert_eq!(ended, Some(TunnelError(CloseReason::Dead)));
    drop(connection);
}

#[tokio::test]
async fn a_peer_s_limit_of_one_stream_is_kept() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(1);
        let mut server = raw_server(&listener, &builder).await;
        let mut held = Vec::new();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            held.push((request, respond.send_response(http::Response::new(()), false).unwrap()));
        }
    });
    let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
    let first = within("open", tunnel.open(&request())).await.unwrap();
    assert!(!tunnel.usable());
    assert!(matches!(tunnel.open(&request()).await, Err(OpenError::Unavailable)));
    drop(first);
    assert!(tunnel.usable());
}

#[tokio::test]
async fn twenty_stopped_readers_do_not_stop_another_stream() {
    // Each side's windows are full for twenty streams; Istio's numbers would hang the tunnel at the fifth.
    let config = Config { stream_window: 1 << 20, ..Config::default() };
    let (tunnel, incoming) = pair(&config, &config).await;
    serve(incoming, |connect| async move {
        let mut stream = connect.admit(None).unwrap();
        let piece = Bytes::from(vec![1; 256 << 10]);
        for _ in 0..400 {
            if stream.send(piece.clone()).await.is_err() {
                return;
            }
        }
        let _ = stream.finish();
        while stream.data().await.is_some_and(|data| data.is_ok()) {}
    });
    let mut stopped = Vec::new();
    for _ in 0..20 {
        stopped.push(within("open", tunnel.open(&request())).await.unwrap());
    }
    let (mut reader, _) = within("open", tunnel.open(&request())).await.unwrap();
    reader.finish().unwrap();
    let mut total = 0;
    while let Some(data) = within("the transfer", reader.data()).await {
        total += data.unwrap().len();
    }
    assert_eq!(total, 100 << 20);
}
