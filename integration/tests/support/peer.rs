//! An HBONE server with bad habits: what a peer may do with a tunnel that others use at that moment.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Result, bail};
use aquifer_integration::Pod;
use aquifer_pki::Issued;
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What it does with each tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    /// Says GOAWAY after the first request, and serves that one to its end.
    LeaveAfterOne,
    /// Serves the first request, and drops the whole tunnel when a second one comes.
    DropOnReuse,
}

/// Listens on a pod's port 15008 and echoes whatever comes in a tunnel, until it is dropped.
#[derive(Debug)]
pub(crate) struct HabitualPeer {
    task: tokio::task::AbortHandle,
    tunnels: Arc<AtomicUsize>,
}

impl HabitualPeer {
    /// Starts it, with a certificate that the mesh trusts.
    pub(crate) fn start(pod: &Pod, certificate: &Issued, habit: Habit) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(certificate.chain.clone(), certificate.key.clone_key())?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let listener = pod.listen(15008)?;
        listener.set_nonblocking(true)?;
        let (acceptor, tunnels) = (TlsAcceptor::from(Arc::new(tls)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&tunnels);
        let task = pod.runtime().spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(tunnel(acceptor.clone(), socket, habit));
            }
        });
        Ok(Self { task: task.abort_handle(), tunnels })
    }

    /// Tunnels it was dialled.
    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }
}

impl Drop for HabitualPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tunnel(acceptor: TlsAcceptor, socket: TcpStream, habit: Habit) -> Result<()> {
    let mut connection = h2::server::handshake(acceptor.accept(socket).await?).await?;
    let mut served = 0;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        match habit {
            Habit::DropOnReuse if served > 0 => bail!("dropped"),
            Habit::LeaveAfterOne => connection.graceful_shutdown(),
            Habit::DropOnReuse => {}
        }
        served += 1;
        tokio::spawn(echo(request, respond));
    }
    Ok(())
}

async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let mut body = request.into_body();
    let mut send = respond.send_response(Response::new(()), false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        send.send_data(data, false)?;
    }
    send.send_data(Bytes::new(), true)?;
    Ok(())
}
