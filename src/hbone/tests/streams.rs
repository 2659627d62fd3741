//! What a stream promises: answers, bytes, half-close, resets, the life of its tunnel.

use std::time::Duration;

use bytes::Bytes;

use super::support::*;
use crate::*;

#[tokio::test]
async fn the_request_and_the_answer_arrive_whole() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    let ours = ConnectRequest {
        baggage: Some(Baggage { namespace: Some("shop".into()), ..Baggage::default() }),
        forwarded: Some(Forwarded { source: ([10, 9, 9, 9], 4000).into(), host: Some("web.shop".into()) }),
        traceparent: Traceparent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ..request()
    };
    let theirs = Baggage { service: Some("web".into()), ..Baggage::default() };
    let (expected, answer) = (ours.clone(), theirs.clone());
    serve(incoming, move |connect| {
        assert_eq!(connect.request, Ok(expected.clone()));
        let answer = answer.clone();
        async move {
            let mut stream = connect.admit(Some(&answer)).unwrap();
            assert_eq!(stream.data().await, None);
            stream.finish().unwrap();
        }
    });
    let (mut stream, reply) = within("open", tunnel.open(&ours)).await.unwrap();
    assert_eq!(reply.baggage, Some(theirs));
    stream.finish().unwrap();
    assert_eq!(within("the end", stream.data()).await, None);
}

#[tokio::test]
async fn a_refusal_names_status_and_reason() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, |connect| async move {
        connect.refuse(401, "deny-policy", "AuthorizationPolicy shop/web denies it");
    });
    let error = within("open", tunnel.open(&request())).await.map(drop).unwrap_err();
    assert_eq!((error.status(), error.code(), error.retry()), (Some(401), "deny-policy", false));
    assert_eq!(
        error.to_string(),
        "the peer refused with status 401: AuthorizationPolicy shop/web denies it (deny-policy)"
    );
    until("the stream is gone", || tunnel.active() == 0).await;
    assert!(tunnel.usable());
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_and_the_server_hears_of_it() {
    let config = Config { reply: Duration::from_millis(50), ..Config::default() };
    let (tunnel, incoming) = pair(&config, &Config::default()).await;
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    serve(incoming, move |mut connect| {
        let heard = heard.clone();
        async move {
            connect.given_up().await;
            heard.send(()).await.unwrap();
        }
    });
    let error = within("open", tunnel.open(&request())).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "reply-timeout");
    within("the server", hears.recv()).await.unwrap();
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_alone() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, |connect| async move {
        let mut stream = connect.admit(None).unwrap();
        let mut total = 0;
        while let Some(data) = stream.data().await {
            total += data.unwrap().len();
        }
        // The client's direction is over, ours is not.
        stream.send(Bytes::from(total.to_string())).await.unwrap();
        stream.finish().unwrap();
    });
    let (mut stream, _) = tunnel.open(&request()).await.unwrap();
    let piece = Bytes::from(vec![7; 300_000]);
    for _ in 0..40 {
        within("send", stream.send(piece.clone())).await.unwrap();
    }
    stream.finish().unwrap();
    let mut answer = Vec::new();
    while let Some(data) = within("the answer", stream.data()).await {
        answer.extend_from_slice(&data.unwrap());
    }
    assert_eq!(answer, 12_000_000.to_string().as_bytes());
    drop(stream);
    until("the stream is gone", || tunnel.active() == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_reset_never_ended() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, |connect| async move {
        let mut stream = connect.admit(None).unwrap();
        stream.send(Bytes::from_static(b"half of it")).await.unwrap();
        stream.data().await;
    });
    let (mut stream, _) = tunnel.open(&request()).await.unwrap();
    let first = within("the half", stream.data()).await.unwrap();
    assert_eq!(first, Ok(Bytes::from_static(b"half of it")));
    stream.send(Bytes::from_static(b"go")).await.unwrap();
    let end = within("the end", stream.data()).await.unwrap();
    assert_eq!(end, Err(StreamError::Reset(ResetReason::CANCEL)));
}

#[tokio::test]
async fn a_reset_reaches_the_other_side_with_its_reason() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    let (seen, mut sees) = tokio::sync::mpsc::channel(1);
    serve(incoming, move |connect| {
        let seen = seen.clone();
        async move { seen.send(connect.admit(None).unwrap().data().await).await.unwrap() }
    });
    let (mut stream, _) = tunnel.open(&request()).await.unwrap();
    stream.reset(ResetReason::CONNECT_ERROR);
    let end = within("the reset", sees.recv()).await.unwrap();
    assert_eq!(end, Some(Err(StreamError::Reset(ResetReason::CONNECT_ERROR))));
}

#[tokio::test]
async fn a_tunnel_that_drains_ends_with_its_last_stream() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    let control = serve(incoming, echo);
    let (mut stream, _) = tunnel.open(&request()).await.unwrap();
    control.drain();
    until("GOAWAY", || !tunnel.usable()).await;
    assert!(matches!(tunnel.open(&request()).await, Err(OpenError::Unavailable)));
    // What stands goes on, both ways, to a clean end.
    stream.send(Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(within("the echo", stream.data()).await, Some(Ok(Bytes::from_static(b"still here"))));
    stream.finish().unwrap();
    assert_eq!(within("the end", stream.data()).await, None);
    drop(stream);
    assert_eq!(within("the tunnel's end", tunnel.closed()).await, CloseReason::PeerClosed);
}

#[tokio::test]
async fn a_retired_tunnel_ends_with_its_last_stream() {
    let (tunnel, mut incoming) = pair(&Config::default(), &Config::default()).await;
    let server = tokio::spawn(async move {
        while let Some(next) = incoming.next().await {
            tokio::spawn(echo(next.unwrap()));
        }
    });
    let (mut stream, _) = tunnel.open(&request()).await.unwrap();
    tunnel.retire();
    assert!(!tunnel.usable());
    stream.send(Bytes::from_static(b"x")).await.unwrap();
    assert!(within("the echo", stream.data()).await.unwrap().is_ok());
    stream.finish().unwrap();
    assert_eq!(within("the end", stream.data()).await, None);
    drop(stream);
    assert_eq!(within("the tunnel's end", tunnel.closed()).await, CloseReason::Finished);
    within("the server's end", server).await.unwrap();
}

#[tokio::test]
async fn cut_on_either_side_ends_all_streams_as_truncated() {
    for server_cuts in [true, false] {
        let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
        let (seen, mut sees) = tokio::sync::mpsc::channel(1);
        let control = serve(incoming, move |connect| {
            let seen = seen.clone();
            async move { seen.send(connect.admit(None).unwrap().data().await).await.unwrap() }
        });
        let (mut stream, _) = tunnel.open(&request()).await.unwrap();
        if server_cuts {
            control.cut()
        } else {
            tunnel.cut()
        }
        let end = within("the client's end", stream.data()).await;
        assert!(matches!(end, Some(Err(_))), "{end:?}");
        let end = within("the server's end", sees.recv()).await.unwrap();
        assert!(matches!(end, Some(Err(_))), "{end:?}");
        within("the tunnel's end", tunnel.closed()).await;
    }
}

#[tokio::test]
async fn a_dropped_incoming_ends_its_streams_and_those_that_wait_for_room() {
    let config = Config { stream_window: 1 << 20, ..Config::default() };
    let (tunnel, mut incoming) = pair(&config, &config).await;
    let opening = tokio::spawn(async move {
        let (mut stream, _) = tunnel.open(&request()).await.unwrap();
        // More than the window: it must wait for a reader that never comes.
        stream.send(Bytes::from(vec![0; 8 << 20])).await
    });
    let connect = within("the request", incoming.next()).await.unwrap().unwrap();
    let stream = connect.admit(None).unwrap();
    let drive = async { while incoming.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_millis(100), drive).await.unwrap_err();
    assert!(!opening.is_finished());
    drop(incoming);
    let sent = within("the sender's end", opening).await.unwrap();
    assert!(sent.is_err());
    drop(stream);
}

#[tokio::test]
async fn a_tunnel_without_streams_closes_after_a_while() {
    let config =
        Config { idle: Duration::from_millis(40), ping: Duration::from_millis(20), ..Config::default() };
    let (tunnel, incoming) = pair(&config, &Config::default()).await;
    serve(incoming, echo);
    assert_eq!(within("the end", tunnel.closed()).await, CloseReason::Finished);
    assert!(!tunnel.usable());
}

#[tokio::test]
async fn the_last_handle_retires_the_tunnel() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, echo);
    let closed = tunnel.closed();
    drop(tunnel);
    assert_eq!(within("the end", closed).await, CloseReason::Finished);
}

/// Applications abort downloads all day; the tunnel and their neighbours must not pay for the bytes still on their way.
#[tokio::test]
async fn many_aborted_downloads_leave_the_tunnel_alone() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, |connect| async move {
        let Ok(mut stream) = connect.admit(None) else { return };
        let piece = Bytes::from(vec![1; 4 << 10]);
        while stream.send(piece.clone()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let (mut neighbour, _) = tunnel.open(&request()).await.unwrap();
    for _ in 0..1500 {
        let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
        within("a first piece", stream.data()).await.unwrap().unwrap();
        stream.reset(ResetReason::CANCEL);
    }
    within("the neighbour", neighbour.data()).await.unwrap().unwrap();
    assert!(tunnel.usable());
}

/// All of a client's callers may give up at once, before the server has looked at any of their requests.
#[tokio::test]
async fn a_hundred_requests_given_up_at_once_leave_the_tunnel_alone() {
    let (tunnel, mut incoming) = pair(&Config::default(), &Config::default()).await;
    let mut openers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let tunnel = tunnel.clone();
        openers.spawn(async move { tunnel.open(&request()).await.map(drop) });
    }
    until("all have asked", || tunnel.active() == 100).await;
    openers.abort_all();
    while openers.join_next().await.is_some() {}
    until("all have left", || tunnel.active() == 0).await;
    // Only now the server looks.
    let server = tokio::spawn(async move {
        while let Some(Ok(connect)) = incoming.next().await {
            tokio::spawn(echo(connect));
        }
    });
    let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
    stream.send(Bytes::from_static(b"x")).await.unwrap();
    assert!(within("the echo", stream.data()).await.unwrap().is_ok());
    server.abort();
}

/// Nothing that was finished is lost because its stream, its tunnel and its pool go right after.
#[tokio::test]
async fn what_was_finished_arrives_although_all_handles_go() {
    const TOTAL: usize = 3 << 20;
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    let (got, mut gets) = tokio::sync::mpsc::channel(1);
    serve(incoming, move |connect| {
        let got = got.clone();
        async move {
            let mut stream = connect.admit(None).unwrap();
            stream.finish().unwrap();
            let mut total = 0;
            while let Some(data) = stream.data().await {
                total += data.unwrap().len();
            }
            got.send(total).await.unwrap();
        }
    });
    let (mut stream, _) = tunnel.open(&request()).await.unwrap();
    assert_eq!(within("the server's end", stream.data()).await, None);
    within("send", stream.send(Bytes::from(vec![1; TOTAL]))).await.unwrap();
    stream.finish().unwrap();
    drop((stream, tunnel));
    assert_eq!(within("all of it", gets.recv()).await, Some(TOTAL));
}
