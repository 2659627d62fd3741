//! The port that nodes call: TLS by our own authority, gRPC on it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::authority::Authority;
use crate::guard::Guard;

/// Connections at once: two from each of some thousand nodes.
const CONNECTIONS: usize = 10_000;
/// Of them from one address: nodes have addresses of their own, and hosts that share one are not more than this.
const FROM_ONE: usize = 64;
/// Calls at once on a connection: a stream, and a node's certificates.
const CALLS: usize = 64;
/// Who has not finished the handshake by then goes.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A client that is gone without a word is noticed by a ping.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));
/// When accept fails for want of descriptors, this is the pause; retrying at once would spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `ended`; then takes no connection more, tells clients to go, and serves the calls that are under way.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    authority: Arc<Authority>,
    guard: Guard,
    routes: Routes,
    ended: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (ready, connections) = mpsc::channel(64);
    let accepting = tokio::spawn(accept(listener, authority, ready));
    let served = Server::builder()
        .concurrency_limit_per_connection(CALLS)
        .http2_keepalive_interval(Some(PING.0))
        .http2_keepalive_timeout(Some(PING.1))
        .layer(guard)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async {
            ended.await;
            accepting.abort();
        })
        .await;
    accepting.abort();
    Ok(served?)
}

async fn accept(
    listener: TcpListener,
    authority: Arc<Authority>,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let guests = Guests::default();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "no connection can be accepted; trying again");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some(guest) = guests.enter(peer.ip()) else {
            debug!(%peer, limit = FROM_ONE, "too many connections from one address; one was closed");
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            warn!(%peer, limit = CONNECTIONS, "too many connections; one was closed");
            continue;
        };
        let (acceptor, ready) = (TlsAcceptor::from(authority.server()), ready.clone());
        tokio::spawn(async move {
            // Without it answers wait for acknowledgements.
            let _ = stream.set_nodelay(true);
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    _ = ready.send(Ok(Connection { stream, peer, _place: place, _guest: guest })).await
                }
                Ok(Err(error)) => debug!(%peer, %error, "TLS failed"),
                Err(_) => debug!(%peer, "TLS took too long"),
            }
        });
    }
}

/// A connection after its handshake.
struct Connection {
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    _place: tokio::sync::OwnedSemaphorePermit,
    _guest: Guest,
}

/// Connections by address. Bounded by the connections.
#[derive(Clone, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
struct Guest(Guests, IpAddr);

impl Guests {
    fn enter(&self, address: IpAddr) -> Option<Guest> {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = guests.entry(address).or_default();
        if *count >= FROM_ONE {
            return None;
        }
        *count += 1;
        Some(Guest(self.clone(), address))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = guests.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.1);
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = SocketAddr;

    fn connect_info(&self) -> SocketAddr {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
