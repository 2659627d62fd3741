//! TLS after the handshake: keys that change in mid-transfer, sessions that are resumed, padding, and what is changed or cut off on
//! the way.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use rustls::HandshakeKind;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::peers::pattern;
use super::support::*;
use crate::frame::{self, flag, kind};
use crate::tls::content;
use crate::*;

/// TLS of rustls that changes its keys, and asks for new ones of the other side, every few writes.
struct Restless {
    tls: TlsStream<TcpStream>,
    writes: u32,
    changes: Arc<AtomicUsize>,
}

impl Restless {
    fn new(tls: TlsStream<TcpStream>, changes: &Arc<AtomicUsize>) -> Self {
        Self { tls, writes: 0, changes: Arc::clone(changes) }
    }

    fn before_write(&mut self) {
        self.writes += 1;
        if self.writes.is_multiple_of(3) {
            match &mut self.tls {
                TlsStream::Client(tls) => tls.get_mut().1.refresh_traffic_keys().unwrap(),
                TlsStream::Server(tls) => tls.get_mut().1.refresh_traffic_keys().unwrap(),
            }
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Restless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Restless {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.before_write();
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// A tunnel whose other end is a `rustls` server.
async fn with_tls_server<F>(
    config: &Config,
    work: impl FnOnce(tokio_rustls::server::TlsStream<TcpStream>) -> F + Send + 'static,
) -> Tunnel
where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        work(TlsAcceptor::from(Arc::clone(&mesh().server)).accept(io).await.unwrap()).await;
    });
    within("dial", dial_to(address, config)).await.unwrap().0
}

async fn tls_client(to: std::net::SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let io = TcpStream::connect(to).await.unwrap();
    let name = ServerName::IpAddress(to.ip().into());
    TlsConnector::from(Arc::clone(&mesh().client)).connect(name, io).await.unwrap()
}

/// Sends all of it in pieces, and takes all of it back.
async fn there_and_back(mut stream: Stream, total: usize) {
    let (mut sent, mut back) = (0, 0);
    while back < total {
        while sent < total && sent - back < 200_000 {
            let now = 30_000.min(total - sent);
            within("send", stream.send(pattern(1, sent, now))).await.unwrap();
            sent += now;
        }
        let piece = within("the echo", stream.data()).await.unwrap().unwrap();
        assert_eq!(piece, pattern(1, back, piece.len()), "at {back}");
        back += piece.len();
    }
    stream.finish().unwrap();
    assert_eq!(within("the end", stream.data()).await, None);
}

/// The echo of an `h2` peer.
async fn raw_echo(mut body: h2::RecvStream, mut send: h2::SendStream<Bytes>) {
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        send.send_data(piece, false).unwrap();
    }
    let _ = send.send_data(Bytes::new(), true);
}

const TOTAL: usize = 2_000_003;

#[tokio::test]
async fn a_server_that_changes_keys_again_and_again() {
    let changes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&changes);
    let tunnel = with_tls_server(&Config::default(), move |tls| async move {
        let io = Restless::new(tls.into(), &counted);
        let mut server = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            let send = respond.send_response(Response::new(()), false).unwrap();
            tokio::spawn(raw_echo(request.into_body(), send));
        }
    })
    .await;
    let (stream, _) = within("open", tunnel.open(&request())).await.unwrap();
    there_and_back(stream, TOTAL).await;
    assert!(changes.load(Ordering::Relaxed) > 10);
    assert!(tunnel.usable());
}

#[tokio::test]
async fn a_client_that_changes_keys_again_and_again() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        serve(
            accept(io, Arc::clone(&mesh().server), chain_length, &Config::default()).await.unwrap().0,
            echo,
        );
    });
    let changes = Arc::new(AtomicUsize::new(0));
    let io = Restless::new(tls_client(address).await.into(), &changes);
    let (mut requests, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let connect = Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").body(()).unwrap();
    let (response, mut send) = requests.send_request(connect, false).unwrap();
    let mut body = within("the answer", response).await.unwrap().into_body();
    let (mut sent, mut back) = (0, 0);
    while back < TOTAL {
        if sent < TOTAL && sent - back < 60_000 {
            let now = 20_000.min(TOTAL - sent);
            send.send_data(pattern(1, sent, now), false).unwrap();
            sent += now;
            continue;
        }
        let piece = within("the echo", body.data()).await.unwrap().unwrap();
        assert_eq!(piece, pattern(1, back, piece.len()), "at {back}");
        back += piece.len();
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    assert!(changes.load(Ordering::Relaxed) > 10);
}

/// Our own updates, which ask for none in return, in both directions.
#[tokio::test]
async fn our_own_keys_change_in_mid_transfer() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, |connect| async move {
        let mut stream = connect.admit(None).unwrap();
        let mut count = 0;
        while let Some(Ok(piece)) = stream.data().await {
            stream.send(piece).await.unwrap();
            count += 1;
            if count % 3 == 0 {
                stream.lock().rekey().unwrap();
            }
        }
        stream.finish().unwrap();
    });
    let (stream, _) = tunnel.open(&request()).await.unwrap();
    let (other, _) = tunnel.open(&request()).await.unwrap();
    let rekey = async {
        for _ in 0..50 {
            other.lock().rekey().unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(there_and_back(stream, TOTAL), rekey);
    there_and_back(other, 10_000).await;
}

#[tokio::test]
async fn a_flood_of_key_updates_ends_the_tunnel() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    let mut incoming = incoming;
    let server = tokio::spawn(async move {
        let connect = incoming.next().await.unwrap().unwrap();
        let _stream = connect.admit(None).unwrap();
        while let Some(next) = incoming.next().await {
            drop(next?);
        }
        Ok(())
    });
    let (stream, _) = within("open", tunnel.open(&request())).await.unwrap();
    for _ in 0..11_000 {
        if stream.lock().rekey().is_err() {
            break;
        }
    }
    stream.lock().sent_some();
    let ended = within("the end", server).await.unwrap();
    assert!(
        matches!(&ended, Err(TunnelError(CloseReason::Failed(text))) if text.contains("excessive load")),
        "{ended:?}"
    );
}

#[tokio::test]
async fn records_with_padding_are_opened_and_those_of_nothing_else_are_not() {
    let (tunnel, incoming) = pair(&Config::default(), &Config::default()).await;
    serve(incoming, echo);
    let (mut stream, _) = tunnel.open(&request()).await.unwrap();
    // Content, its type, and zeros: sealed with a type of 0, which is the last of them.
    let padded = |stream: &Stream, frame: &[u8], zeros: usize| {
        let mut core = stream.lock();
        core.out.record(0, &[frame, &[content::DATA], &vec![0; zeros]].concat());
        core.wake_driver();
    };
    let frame =
        [&frame::Head { len: 3, kind: kind::DATA, flags: 0, stream: stream.id() }.bytes()[..], b"abc"]
            .concat();
    for zeros in [0, 1, 300, 16_000] {
        padded(&stream, &frame, zeros);
        assert_eq!(within("the echo", stream.data()).await, Some(Ok(Bytes::from_static(b"abc"))));
    }
    // An empty record of data means nothing.
    padded(&stream, &[], 7);
    padded(&stream, &frame, 0);
    assert_eq!(within("the echo", stream.data()).await, Some(Ok(Bytes::from_static(b"abc"))));
    // Zeros alone have no type.
    stream.lock().out.record(0, &[0; 9]);
    stream.lock().wake_driver();
    assert!(within("the end", stream.data()).await.unwrap().is_err());
}

/// What happens to the bytes on their way, from now on.
const PASS: u8 = 0;
const FLIP: u8 = 1;
const CUT: u8 = 2;

/// Passes bytes between a client and `to`, and does to them what it is told: up, and down.
async fn relay(to: std::net::SocketAddr) -> (std::net::SocketAddr, [Arc<AtomicU8>; 2]) {
    let (listener, address) = listen().await;
    let orders: [Arc<AtomicU8>; 2] = std::array::from_fn(|_| Arc::default());
    let [up, down] = orders.clone();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(to).await.unwrap();
        // Small pieces are not held back for an ACK.
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = pass(from_client, to_server, up) => {}
            () = pass(from_server, to_client, down) => {}
        }
    });
    (address, orders)
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, order: Arc<AtomicU8>) {
    let mut buffer = vec![0; 5_000];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let keep = match order.load(Ordering::Relaxed) {
            FLIP => {
                buffer[n / 2] ^= 0x10;
                order.store(PASS, Ordering::Relaxed);
                n
            }
            // In the middle of a record.
            CUT => n / 2,
            _ => n,
        };
        if to.write_all(&buffer[..keep]).await.is_err() || keep < n {
            return;
        }
    }
}

/// Whoever changes a byte, or ends the connection without the keys, ends the tunnel: no wrong byte, and no end, is taken for the peer's.
#[tokio::test]
async fn what_is_changed_or_cut_on_the_way_is_never_delivered() {
    for (direction, order) in [(0, FLIP), (1, FLIP), (0, CUT), (1, CUT)] {
        let (listener, server) = listen().await;
        let (told, mut tells) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let (io, _) = listener.accept().await.unwrap();
            let accepted = accept(io, Arc::clone(&mesh().server), chain_length, &Config::default()).await;
            serve(accepted.unwrap().0, move |connect| {
                let told = told.clone();
                async move {
                    let mut stream = connect.admit(None).unwrap();
                    let mut got = 0;
                    let end = loop {
                        match stream.data().await {
                            Some(Ok(piece)) => {
                                assert_eq!(piece, pattern(1, got, piece.len()));
                                got += piece.len();
                                if let Err(error) = stream.send(piece).await {
                                    break Some(error);
                                }
                            }
                            Some(Err(error)) => break Some(error),
                            None => break None,
                        }
                    };
                    told.send(end).await.unwrap();
                }
            });
        });
        let (address, orders) = relay(server).await;
        let (tunnel, _) = within("dial", dial_to(address, &Config::default())).await.unwrap();
        let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
        let (mut sent, mut back) = (0, 0);
        let end = loop {
            if sent - back < 100_000 {
                if let Err(error) = within("send", stream.send(pattern(1, sent, 10_000))).await {
                    break error;
                }
                sent += 10_000;
            }
            if sent > 500_000 {
                orders[direction].compare_exchange(PASS, order, Ordering::Relaxed, Ordering::Relaxed).ok();
            }
            match within("the echo", stream.data()).await {
                Some(Ok(piece)) => {
                    assert_eq!(piece, pattern(1, back, piece.len()));
                    back += piece.len();
                }
                Some(Err(error)) => break error,
                None => panic!("a stream that was cut off was taken for a finished one"),
            }
        };
        assert!(matches!(end, StreamError::Tunnel(_)), "{end:?}");
        let heard = within("the server's end", tells.recv()).await.unwrap();
        assert!(matches!(heard, Some(StreamError::Tunnel(_))), "{heard:?}");
        let reason = within("the tunnel's end", tunnel.closed()).await;
        assert!(order == CUT || direction == 0 || matches!(reason, CloseReason::Failed(_)), "{reason:?}");
    }
}

/// A peer that closes TLS in good order, in the middle of streams; and one that just goes.
#[tokio::test]
async fn a_close_in_mid_stream_is_no_end_of_a_stream() {
    for notify in [true, false] {
        let tunnel = with_tls_server(&Config::default(), move |mut tls| async move {
            tls.write_all(&frame::settings(&[])).await.unwrap();
            // The request is there when anything comes after the greeting; read to its last byte.
            let mut seen = Vec::new();
            while !seen.ends_with(b"10.1.2.3:80") {
                assert!(tls.read_buf(&mut seen).await.unwrap() > 0);
            }
            let head = |len, kind, flags| frame::Head { len, kind, flags, stream: 1 }.bytes();
            let answer =
                [&head(1, kind::HEADERS, flag::END_HEADERS)[..], &[0x88], &head(5, kind::DATA, 0), b"hello"]
                    .concat();
            tls.write_all(&answer).await.unwrap();
            tls.flush().await.unwrap();
            if notify {
                tls.shutdown().await.unwrap();
                while tls.read_buf(&mut seen).await.is_ok_and(|n| n > 0) {}
            }
        })
        .await;
        let (mut stream, _) = within("open", tunnel.open(&request())).await.unwrap();
        assert_eq!(within("data", stream.data()).await, Some(Ok(Bytes::from_static(b"hello"))));
        assert!(matches!(within("the end", stream.data()).await, Some(Err(StreamError::Tunnel(_)))));
        within("the tunnel's end", tunnel.closed()).await;
    }
}

/// The second dial resumes the session of the first, and both sides' callers still see who the other is.
#[tokio::test]
async fn a_second_dial_resumes_the_session_and_verifies_again() {
    let mesh = new_mesh();
    let dial_one = async |listener: &TcpListener| {
        let address = listener.local_addr().unwrap();
        let io = TcpStream::connect(address).await.unwrap();
        within("dial", dial(io, address, Arc::clone(&mesh.client), chain_length, &Config::default()))
            .await
            .unwrap()
    };
    let (listener, _) = listen().await;
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let acceptor = TlsAcceptor::from(Arc::clone(&mesh.server));
        let serve = async {
            let (io, _) = listener.accept().await.unwrap();
            let tls = acceptor.accept(io).await.unwrap();
            let kind = tls.get_ref().1.handshake_kind();
            let mut server = h2::server::handshake(tls).await.unwrap();
            tokio::spawn(async move { while server.accept().await.is_some() {} });
            kind
        };
        let ((_tunnel, chain), kind) = tokio::join!(dial_one(&listener), serve);
        assert_eq!((chain, kind), (1, Some(expected)));
    }
    // Our own server, with a client that resumes.
    for _ in 0..2 {
        let ours = async {
            let (io, _) = listener.accept().await.unwrap();
            let (mut incoming, chain) =
                accept(io, Arc::clone(&mesh.server), chain_length, &Config::default()).await.unwrap();
            tokio::spawn(async move { while incoming.next().await.is_some() {} });
            chain
        };
        let ((_tunnel, client), server) = tokio::join!(dial_one(&listener), ours);
        assert_eq!((client, server), (1, 1));
    }
}
