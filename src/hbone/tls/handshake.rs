//! The handshake of a tunnel, by rustls, and what it leaves: keys, the peer's chain, and bytes that came early.

use std::io;
use std::ops::DerefMut;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedConnectionCommon, UnbufferedStatus};
use rustls::{ClientConfig, Error, ExtractedSecrets, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::record::{Opener, Sealer};

/// Largest handshake in ciphertext, in bytes, that is buffered: chains of certificates are a few KiB.
const MOST: usize = 128 << 10;
/// One read of the handshake.
const READ: usize = 8 << 10;

/// A handshake that did not succeed.
#[derive(Debug)]
pub(crate) enum Failed {
    Tls(Error),
    Io(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Tls(error)
    }
}

/// TLS after its handshake.
pub(crate) struct Established {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) kernel: Kernel,
    /// The peer's certificates, its own first; resumption brings them from the session.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Both agreed on HTTP/2.
    pub(crate) http2: bool,
    /// Data that rustls opened, because it came together with the end of the handshake.
    pub(crate) early: Vec<u8>,
    /// Ciphertext after it.
    pub(crate) rest: Vec<u8>,
}

/// What rustls keeps for the life of the tunnel.
pub(crate) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    /// The next key of this side, after its KeyUpdate was sent.
    pub(crate) fn next_sealer(&mut self) -> Result<Sealer, Error> {
        Sealer::new(match self {
            Self::Client(kernel) => kernel.update_tx_secret()?,
            Self::Server(kernel) => kernel.update_tx_secret()?,
        })
    }

    /// The next key of the peer, after its KeyUpdate came.
    pub(crate) fn next_opener(&mut self) -> Result<Opener, Error> {
        Opener::new(match self {
            Self::Client(kernel) => kernel.update_rx_secret()?,
            Self::Server(kernel) => kernel.update_rx_secret()?,
        })
    }

    /// A session for the next dial. Only servers send them.
    pub(crate) fn ticket(&mut self, payload: &[u8]) -> Result<(), Error> {
        match self {
            Self::Client(kernel) => kernel.handle_new_session_ticket(payload),
            Self::Server(_) => Err(Error::InappropriateHandshakeMessage {
                expect_types: vec![rustls::HandshakeType::KeyUpdate],
                got_type: rustls::HandshakeType::NewSessionTicket,
            }),
        }
    }
}

/// Both roles, which rustls makes different types.
trait Side: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// The dialling side. `config` must allow the extraction of secrets.
pub(crate) async fn connect(
    io: &mut TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Established, Failed> {
    let mut side = UnbufferedClientConnection::new(config, name)?;
    let left = shake(io, &mut side).await?;
    let (secrets, kernel) = side.dangerous_into_kernel_connection()?;
    left.established(secrets, Kernel::Client(kernel))
}

/// The accepting side. `config` must allow the extraction of secrets.
pub(crate) async fn accept(io: &mut TcpStream, config: Arc<ServerConfig>) -> Result<Established, Failed> {
    let mut side = UnbufferedServerConnection::new(config)?;
    let left = shake(io, &mut side).await?;
    let (secrets, kernel) = side.dangerous_into_kernel_connection()?;
    left.established(secrets, Kernel::Server(kernel))
}

/// What a handshake leaves beside its keys; see [`Established`].
struct Left {
    chain: Vec<CertificateDer<'static>>,
    http2: bool,
    early: Vec<u8>,
    rest: Vec<u8>,
}

impl Left {
    fn established(self, secrets: ExtractedSecrets, kernel: Kernel) -> Result<Established, Failed> {
        let (sealer, opener) = (Sealer::new(secrets.tx)?, Opener::new(secrets.rx)?);
        let Self { chain, http2, early, rest } = self;
        Ok(Established { sealer, opener, kernel, chain, http2, early, rest })
    }
}

/// What a step of the handshake asks for.
enum Next {
    Again,
    Write,
    Read,
    Done,
    Failed(Error),
}

async fn shake<S: Side>(io: &mut TcpStream, side: &mut S) -> Result<Left, Failed> {
    let (mut incoming, mut outgoing, mut early) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match step(side, &mut incoming, &mut outgoing, &mut early) {
            Next::Again => {}
            Next::Write => write(io, &mut outgoing).await?,
            Next::Read => {
                // What the peer waits for comes first.
                write(io, &mut outgoing).await?;
                if incoming.len() >= MOST {
                    return Err(Error::PeerSentOversizedRecord.into());
                }
                incoming.reserve(READ);
                if io.read_buf(&mut incoming).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
            Next::Done => {
                write(io, &mut outgoing).await?;
                let chain = side.peer_certificates().unwrap_or_default();
                let chain = chain.iter().cloned().map(CertificateDer::into_owned).collect();
                return Ok(Left { chain, http2: side.alpn_protocol() == Some(b"h2"), early, rest: incoming });
            }
            Next::Failed(error) => {
                // The alert that says why should reach the peer; that it does not is no other error.
                let _alert = step(side, &mut incoming, &mut outgoing, &mut early);
                let _ = write(io, &mut outgoing).await;
                return Err(error.into());
            }
        }
    }
}

fn step<S: Side>(side: &mut S, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>, early: &mut Vec<u8>) -> Next {
    let UnbufferedStatus { discard, state } = side.process(incoming);
    let next = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(outgoing, |room| data.encode(room)).map_or_else(Next::Failed, |()| Next::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Next::Write
        }
        Ok(ConnectionState::BlockedHandshake) => Next::Read,
        Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
        Ok(ConnectionState::ReadTraffic(mut data)) => loop {
            match data.next_record() {
                Some(Ok(record)) => early.extend_from_slice(record.payload),
                Some(Err(error)) => break Next::Failed(error),
                None => break Next::Again,
            }
        },
        // Early data is never offered or taken; what else there may be ends the connection.
        Ok(_) => Next::Failed(Error::HandshakeNotComplete),
        Err(error) => Next::Failed(error),
    };
    // After an error rustls' own notes of the buffer stay, and it is asked once more, for its alert.
    if !matches!(next, Next::Failed(_)) {
        incoming.drain(..discard);
    }
    next
}

fn encode(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let start = outgoing.len();
    let mut room = 1 << 10;
    loop {
        outgoing.resize(start + room, 0);
        match encode(&mut outgoing[start..]) {
            Ok(n) => {
                outgoing.truncate(start + n);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) if size.required_size > room => {
                room = size.required_size
            }
            Err(_) => return Err(Error::EncryptError),
        }
    }
}

async fn write(io: &mut TcpStream, outgoing: &mut Vec<u8>) -> io::Result<()> {
    if !outgoing.is_empty() {
        io.write_all(outgoing).await?;
        outgoing.clear();
    }
    Ok(())
}
