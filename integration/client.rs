//! Small real clients that call from a pod's namespace, blocking and with deadlines.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use aquifer_sys::NetNs;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    http::{self, Head},
    pattern::{self, Stream},
    pod::Pod,
};

/// How long one step of a call (connect, read, write) may take where the scenario says nothing else.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Why a call did not succeed, as the application sees it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection was refused: a reset in answer to the first packet.
    #[error("connection refused")]
    Refused,
    /// The connection was reset after it stood.
    #[error("connection reset after {received} bytes")]
    Reset {
        /// Bytes that arrived before.
        received: u64,
    },
    /// The other side ended its direction too early.
    #[error("end of file after {received} bytes, more were expected")]
    Ended {
        /// Bytes that arrived before.
        received: u64,
    },
    /// Nothing happened for longer than the patience.
    #[error("nothing happened for too long, {received} bytes had arrived")]
    TimedOut {
        /// Bytes that arrived before.
        received: u64,
    },
    /// No route, or an ICMP message that says so.
    #[error("unreachable: {0}")]
    Unreachable(io::Error),
    /// Something else arrived than was sent.
    #[error("a wrong byte at offset {at}")]
    Corrupt {
        /// Offset of the first byte that differs.
        at: u64,
    },
    /// Bytes came that are no HTTP response.
    #[error("not an HTTP response: {0:?}")]
    NotHttp(String),
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}

impl CallError {
    /// Refused or reset: what a call that policy or a fault forbids must look like.
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::Refused | Self::Reset { .. })
    }

    fn after(error: io::Error, received: u64) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::ConnectionReset | Kind::BrokenPipe | Kind::ConnectionAborted => Self::Reset { received },
            Kind::TimedOut | Kind::WouldBlock => Self::TimedOut { received },
            Kind::UnexpectedEof => Self::Ended { received },
            Kind::HostUnreachable | Kind::NetworkUnreachable => Self::Unreachable(error),
            _ => Self::Other(error),
        }
    }
}

type Call<T> = Result<T, CallError>;

/// A connection that a pod opened.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    to: SocketAddr,
    buffer: Vec<u8>,
    received: u64,
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// The pod that answered (`namespace/name`), empty where another kind of server did.
    pub pod: String,
    /// The client's address as the server saw it.
    pub client: Option<SocketAddr>,
    /// The body.
    pub body: Vec<u8>,
    /// From the first byte sent to the last one read, without the connect.
    pub elapsed: Duration,
}

/// What a bulk transfer moved. Every byte was compared.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes in each direction that was used.
    pub bytes: u64,
    /// From connect to the last end of file.
    pub elapsed: Duration,
}

impl Transfer {
    /// Bits per second, in thousands of millions.
    pub fn gigabits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.elapsed.as_secs_f64()
    }
}

impl Pod {
    /// An unconnected TCP socket of the pod.
    pub fn socket(&self, to: SocketAddr) -> io::Result<Socket> {
        socket_in(self.ns(), to)
    }

    /// Opens a connection.
    pub fn connect(&self, to: SocketAddr) -> Call<Conn> {
        self.connect_within(to, PATIENCE)
    }

    /// Opens a connection, with a patience of the caller's own for this and each later step.
    pub fn connect_within(&self, to: SocketAddr, patience: Duration) -> Call<Conn> {
        Conn::open(self.ns(), to, patience)
    }

    /// One HTTP GET of `/` on a new connection.
    pub fn http_get(&self, to: SocketAddr) -> Call<Reply> {
        self.connect(to)?.get("/")
    }

    /// Reads all of a [`Serve::Source`](crate::Serve::Source) and compares each byte.
    pub fn download(&self, to: SocketAddr, bytes: u64) -> Call<Transfer> {
        let start = Instant::now();
        let mut conn = self.connect(to)?;
        conn.finish()?;
        conn.receive_pattern(bytes)?;
        Ok(Transfer { bytes, elapsed: start.elapsed() })
    }

    /// Sends so many bytes to a [`Serve::Sink`](crate::Serve::Sink) and waits for its count.
    pub fn upload(&self, to: SocketAddr, bytes: u64) -> Call<Transfer> {
        let start = Instant::now();
        let mut conn = self.connect(to)?;
        send_pattern(&conn.stream, bytes).map_err(|error| CallError::after(error, 0))?;
        conn.finish()?;
        let count = conn.receive(8)?;
        if count != bytes.to_be_bytes() {
            let count = count.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            return Err(CallError::Corrupt { at: count });
        }
        conn.expect_end()?;
        Ok(Transfer { bytes, elapsed: start.elapsed() })
    }

    /// Sends and receives so many bytes at once, against [`Serve::Exchange`](crate::Serve::Exchange).
    pub fn exchange(&self, to: SocketAddr, bytes: u64) -> Call<Transfer> {
        let start = Instant::now();
        let mut conn = self.connect(to)?;
        let writer = conn.stream.try_clone().map_err(CallError::Other)?;
        thread::scope(|scope| {
            let sending = scope.spawn(move || {
                send_pattern(&writer, bytes)?;
                writer.shutdown(Shutdown::Write)
            });
            conn.receive_pattern(bytes)?;
            sending
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")))
                .map_err(|error| CallError::after(error, bytes))
        })?;
        Ok(Transfer { bytes, elapsed: start.elapsed() })
    }

    /// Round trips of one byte on one connection to a [`Serve::Echo`](crate::Serve::Echo), sorted.
    pub fn round_trips(&self, to: SocketAddr, count: usize) -> Call<Vec<Duration>> {
        let mut conn = self.connect(to)?;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            conn.ping()?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    }
}

impl Conn {
    /// Opens a connection from a network namespace; `patience` holds for this and each later step.
    pub fn open(ns: &NetNs, to: SocketAddr, patience: Duration) -> Call<Self> {
        let open = || {
            let socket = socket_in(ns, to)?;
            socket.connect_timeout(&to.into(), patience)?;
            socket.set_tcp_nodelay(true)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Ok(Self { stream, to, buffer: Vec::new(), received: 0 })
        };
        open().map_err(|error| CallError::after(error, 0))
    }

    /// The pod's end.
    pub fn local(&self) -> Call<SocketAddr> {
        self.stream.local_addr().map_err(CallError::Other)
    }

    /// The address that was called.
    pub fn remote(&self) -> SocketAddr {
        self.to
    }

    /// The socket, for what is not told here.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Bytes read so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Sends all of it.
    pub fn send(&mut self, bytes: &[u8]) -> Call<()> {
        self.stream.write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Reads exactly so many bytes.
    pub fn receive(&mut self, count: usize) -> Call<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill()? == 0 {
                return Err(CallError::Ended { received: self.received });
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Sends a byte and waits for its echo.
    pub fn ping(&mut self) -> Call<()> {
        self.send(b"?")?;
        match self.receive(1)?[..] {
            [b'?'] => Ok(()),
            _ => Err(CallError::Corrupt { at: self.received - 1 }),
        }
    }

    /// Ends our direction (half-close).
    pub fn finish(&mut self) -> Call<()> {
        self.stream.shutdown(Shutdown::Write).map_err(|error| self.failed(error))
    }

    /// Reads until the other side ends its direction.
    pub fn receive_to_end(&mut self) -> Call<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Waits for the other side's end of file; anything else is an error.
    pub fn expect_end(&mut self) -> Call<()> {
        match self.fill()? {
            0 if self.buffer.is_empty() => Ok(()),
            _ => Err(CallError::Corrupt { at: self.received }),
        }
    }

    /// Waits until the connection is reset; `Err` says what happened instead. Bytes that come before are read away.
    pub fn expect_reset(&mut self) -> Result<(), String> {
        loop {
            match self.fill() {
                Ok(0) => return Err(format!("a clean end after {} bytes", self.received)),
                Ok(_) => self.buffer.clear(),
                Err(CallError::Reset { .. }) => return Ok(()),
                Err(other) => return Err(other.to_string()),
            }
        }
    }

    /// An HTTP GET; the connection stays open.
    pub fn get(&mut self, path: &str) -> Call<Reply> {
        self.request("GET", path)
    }

    /// An HTTP request without a body; the connection stays open.
    pub fn request(&mut self, method: &str, path: &str) -> Call<Reply> {
        let start = Instant::now();
        let request = http::request(method, &self.to.to_string(), path);
        self.send(request.as_bytes())?;
        let head = self.head()?;
        let body = self.receive(head.content_length())?;
        let Some(status) = head.status() else { return Err(CallError::NotHttp(head.first)) };
        Ok(Reply {
            status,
            pod: head.field("x-pod").unwrap_or_default().into(),
            client: head.field("x-client").and_then(|client| client.parse().ok()),
            body,
            elapsed: start.elapsed(),
        })
    }

    fn head(&mut self) -> Call<Head> {
        loop {
            match http::take_head(&mut self.buffer) {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {}
                Err(error) => return Err(CallError::NotHttp(error.to_string())),
            }
            if self.fill()? == 0 {
                return Err(CallError::Ended { received: self.received });
            }
        }
    }

    fn fill(&mut self) -> Call<usize> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk).map_err(|error| self.failed(error))?;
        self.buffer.extend_from_slice(&chunk[..count]);
        self.received += count as u64;
        Ok(count)
    }

    fn receive_pattern(&mut self, bytes: u64) -> Call<()> {
        let mut chunk = vec![0; 128 * 1024];
        loop {
            let count = self.stream.read(&mut chunk).map_err(|error| self.failed(error))?;
            if count == 0 {
                let received = self.received;
                return if received == bytes { Ok(()) } else { Err(CallError::Ended { received }) };
            }
            pattern::check(Stream::Down, self.received, &chunk[..count])
                .map_err(|at| CallError::Corrupt { at })?;
            self.received += count as u64;
            if self.received > bytes {
                return Err(CallError::Corrupt { at: bytes });
            }
        }
    }

    fn failed(&self, error: io::Error) -> CallError {
        CallError::after(error, self.received)
    }
}

fn socket_in(ns: &NetNs, to: SocketAddr) -> io::Result<Socket> {
    ns.run(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)))
}

fn send_pattern(mut stream: &TcpStream, bytes: u64) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        let piece = pattern::from(Stream::Up, sent);
        let length = usize::try_from(bytes - sent).unwrap_or(usize::MAX).min(piece.len());
        sent += stream.write(&piece[..length])? as u64;
    }
    Ok(())
}
