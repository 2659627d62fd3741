//! Windows of the connection that are still whole after streams that ended badly, and that hold between threads.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::support::*;
use crate::copy::{Application, CopyError, Cut, Options};
use crate::mux::Inbox;
use crate::mux::tests::window_is_whole;
use crate::sink::Sink;
use crate::*;

/// Serves streams that send without end.
async fn torrents() -> (Tunnel, Stream) {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, |connect| async move {
        let Ok(mut stream) = connect.admit(None) else { return };
        if stream.data().await.is_none() {
            // A neighbour, which stays.
            return std::future::pending().await;
        }
        let piece = Bytes::from(vec![1; 64 << 10]);
        while stream.send(piece.clone()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let (mut neighbour, _) = within("open", tunnel.open(&request())).await.unwrap();
    neighbour.finish().unwrap();
    (tunnel, neighbour)
}

/// What an application does not take any more is nobody's, and makes room for others: otherwise each download that is broken off
/// takes some of the tunnel's window with it for ever.
#[tokio::test]
async fn applications_that_go_in_mid_download_leave_the_window_whole() {
    let (tunnel, neighbour) = torrents().await;
    for _ in 0..20 {
        let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
        stream.send(Bytes::from_static(b"go")).await.unwrap();
        let (app, mut client) = sockets().await;
        let options = Options {
            half_close_idle: None,
            budget: Budget::new(1 << 30),
            cut: std::future::pending::<Cut>(),
        };
        let copy = tokio::spawn(crate::copy::tunnel(app, Application::Client, stream, Arc::new(()), options));
        let mut got = vec![0; 300_000];
        within("some of it", client.read_exact(&mut got)).await.unwrap();
        // Unread bytes are in its socket, so the other side is reset.
        drop(client);
        let outcome = within("the end", copy).await.unwrap();
        assert!(matches!(outcome.end, Err(CopyError::Socket { .. })), "{outcome:?}");
    }
    until("all are gone", || tunnel.active() == 1).await;
    assert!(window_is_whole(&neighbour.lock().mux));
}

#[tokio::test]
async fn streams_that_are_dropped_in_mid_download_leave_the_window_whole() {
    let (tunnel, neighbour) = torrents().await;
    for n in 0..50 {
        let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
        stream.send(Bytes::from_static(b"go")).await.unwrap();
        for _ in 0..n % 4 {
            within("a piece", stream.data()).await.unwrap().unwrap();
        }
    }
    until("all are gone", || tunnel.active() == 1).await;
    assert!(window_is_whole(&neighbour.lock().mux));
}

/// Room that one stream was promised is not sent by another.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_on_many_threads_share_a_window_of_the_connection() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        // The connection's window is the default: 65,535 bytes for all.
        let mut server = raw_server(&listener, h2::server::Builder::new().initial_window_size(1 << 20)).await;
        loop {
            match server.accept().await {
                Some(Ok((request, mut respond))) => {
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        while let Some(Ok(piece)) = body.data().await {
                            let _ = body.flow_control().release_capacity(piece.len());
                        }
                        let _ = send.send_data(Bytes::new(), true);
                    });
                }
                Some(Err(error)) => return Some(error),
                None => return None,
            }
        }
    });
    let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
    let mut streams = JoinSet::new();
    for n in 0..16 {
        let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
        streams.spawn(async move {
            for _ in 0..60 {
                stream.send(Bytes::from(vec![7; 9_000 + n])).await.unwrap();
            }
            stream.finish().unwrap();
            assert_eq!(stream.data().await, None);
        });
    }
    within("all of it", streams.join_all()).await;
    drop(tunnel);
    let ended = within("the server's end", server).await.unwrap();
    assert!(ended.is_none(), "{ended:?}");
}

/// Bytes for a socket that has failed are either kept or done with: what is neither is missing from the window.
#[tokio::test]
async fn no_byte_for_a_socket_that_failed_is_lost_to_the_window() {
    let (app, client) = sockets().await;
    client.set_zero_linger().unwrap();
    drop(client);
    app.readable().await.unwrap();
    let hold = crate::budget::Hold::new(Budget::new(1 << 30));
    let mut sink = Sink::new(Arc::new(app), Application::Client, Arc::new(()), hold, 0);
    let mut inbox = Inbox::default();
    for round in 1..5 {
        let before = inbox.len();
        let taken = sink.deliver(&[IoSlice::new(b"some"), IoSlice::new(b"bytes")], false, &mut inbox);
        assert_eq!(taken + inbox.len() - before, 9, "round {round}");
    }
    assert!(sink.failed().is_some());
}
