//! Dials and accepts that succeed, and each way in which they do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;
use crate::*;

async fn accept_one(listener: tokio::net::TcpListener, config: Config) -> Result<usize, AcceptError> {
    let (io, _) = listener.accept().await.unwrap();
    let (mut incoming, chain) = accept(io, Arc::clone(&mesh().server), chain_length, &config).await?;
    tokio::spawn(async move { while incoming.next().await.is_some() {} });
    Ok(chain)
}

#[tokio::test]
async fn both_sides_see_each_other_s_chain() {
    let (listener, address) = listen().await;
    let config = Config::default();
    let (client, server) = tokio::join!(dial_to(address, &config), accept_one(listener, Config::default()));
    assert_eq!((client.unwrap().1, server.unwrap()), (1, 1));
}

#[tokio::test]
async fn garbage_is_told_from_tls() {
    let (listener, address) = listen().await;
    let accepted = tokio::spawn(accept_one(listener, Config::default()));
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let error = within("accept", accepted).await.unwrap().unwrap_err();
    assert!(matches!(error, AcceptError::NotTls), "{error:?}");
}

#[tokio::test]
async fn no_garbage_gets_through_and_none_panics() {
    for garbage in [
        &[0; 100][..],
        &[0xff; 3000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0x16, 9, 9, 0, 2, 1, 1],
        &[0x16, 3, 1, 0xff, 0xff],
    ] {
        let (listener, address) = listen().await;
        let accepted = tokio::spawn(accept_one(listener, Config::default()));
        let mut io = TcpStream::connect(address).await.unwrap();
        io.write_all(garbage).await.unwrap();
        io.shutdown().await.unwrap();
        let code = within("accept", accepted).await.unwrap().unwrap_err().code();
        assert!(["not-tls", "tls", "handshake-broken"].contains(&code), "{code} for {garbage:?}");
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_given_up() {
    let (listener, address) = listen().await;
    let config = Config { handshake: Duration::from_millis(50), ..Config::default() };
    let _silent = TcpStream::connect(address).await.unwrap();
    let error = within("accept", accept_one(listener, config)).await.unwrap_err();
    assert_eq!(error.code(), "handshake-timeout");
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_on_both_sides() {
    let (listener, address) = listen().await;
    let accepted = tokio::spawn(accept_one(listener, Config::default()));
    let io = TcpStream::connect(address).await.unwrap();
    let dialled = dial(io, address, Arc::clone(&mesh().nobody), chain_length, &Config::default()).await;
    let error = dialled.map(drop).unwrap_err();
    // The alert that the server sent, not just a broken connection.
    assert!(matches!(error, DialError::Tls(rustls::Error::AlertReceived(_))), "{error:?}");
    assert!(matches!(accepted.await.unwrap().unwrap_err(), AcceptError::NoCertificate));
}

#[tokio::test]
async fn a_server_of_another_root_is_refused() {
    let (listener, address) = listen().await;
    let accepted = tokio::spawn(accept_one(listener, Config::default()));
    let io = TcpStream::connect(address).await.unwrap();
    let stranger = new_mesh();
    let error =
        dial(io, address, stranger.client, chain_length, &Config::default()).await.map(drop).unwrap_err();
    assert_eq!((error.code(), error.fault()), ("tunnel-tls", Fault::Peer));
    assert_eq!(accepted.await.unwrap().unwrap_err().code(), "tls");
}

#[tokio::test]
async fn the_caller_s_verification_has_the_last_word() {
    let (listener, address) = listen().await;
    let accepted = tokio::spawn(accept_one(listener, Config::default()));
    let io = TcpStream::connect(address).await.unwrap();
    let reject = |_: &[_]| Err::<(), Cause>("not who was expected".into());
    let error = dial(io, address, Arc::clone(&mesh().client), reject, &Config::default())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.to_string(), "the peer's identity is not accepted: not who was expected");
    assert!(within("accept", accepted).await.unwrap().is_err());
}

#[tokio::test]
async fn a_peer_without_http2_is_no_peer() {
    let mut server = ServerConfigWithoutAlpn::new();
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut tls = tokio_rustls::TlsAcceptor::from(server.take()).accept(io).await.unwrap();
        let _ = tls.read(&mut [0; 64]).await;
    });
    let error = within("dial", dial_to(address, &Config::default())).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::NotHttp2), "{error:?}");
}

struct ServerConfigWithoutAlpn(Option<rustls::ServerConfig>);

impl ServerConfigWithoutAlpn {
    fn new() -> Self {
        let mut config = rustls::ServerConfig::clone(&mesh().server);
        config.alpn_protocols.clear();
        Self(Some(config))
    }

    fn take(&mut self) -> Arc<rustls::ServerConfig> {
        self.0.take().unwrap().into()
    }
}

#[tokio::test]
async fn a_black_hole_costs_the_deadline_and_no_more() {
    let (listener, address) = listen().await;
    let config = Config { handshake: Duration::from_millis(50), ..Config::default() };
    let error = within("dial", dial_to(address, &config)).await.map(drop).unwrap_err();
    assert_eq!((error.code(), error.fault()), ("tunnel-handshake-timeout", Fault::Network));
    drop(listener);
}

#[tokio::test]
async fn a_dial_that_is_given_up_closes_its_socket_at_once() {
    let (listener, address) = listen().await;
    let dialling = tokio::spawn(async move { dial_to(address, &Config::default()).await.map(drop) });
    let (mut io, _) = listener.accept().await.unwrap();
    // The client's hello is there, so the dial is in the middle of its handshake.
    io.read_exact(&mut [0; 16]).await.unwrap();
    dialling.abort();
    let mut rest = Vec::new();
    within("the end of the connection", async { while io.read_buf(&mut rest).await.is_ok_and(|n| n > 0) {} })
        .await;
}

#[tokio::test]
async fn nobody_listens() {
    let (listener, address) = listen().await;
    drop(listener);
    let error = dial_to(address, &Config::default()).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "tunnel-connect");
}

#[tokio::test]
async fn many_handshakes_at_once() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let accepted = accept(io, Arc::clone(&mesh().server), chain_length, &Config::default()).await;
                let (mut incoming, _) = accepted.unwrap();
                while let Some(Ok(connect)) = incoming.next().await {
                    connect.refuse(503, "no-application", "nobody listens on the port");
                }
            });
        }
    });
    let mut dials = tokio::task::JoinSet::new();
    for port in 1..=50u16 {
        dials.spawn(async move {
            let (tunnel, _) = dial_to(address, &Config::default()).await.unwrap();
            tunnel
                .open(&ConnectRequest::to(SocketAddr::from(([10, 0, 0, 1], port))))
                .await
                .map(drop)
                .unwrap_err()
        });
    }
    let errors = within("all dials", dials.join_all()).await;
    assert_eq!(errors.len(), 50);
    assert!(errors.iter().all(|error| error.code() == "no-application"), "{errors:?}");
}
