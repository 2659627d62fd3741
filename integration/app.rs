//! Small real servers that run in a pod's namespace and keep books: who came, how much passed, how each connection ended.
//!
//! They are plain TCP programs on sockets of the pod and use none of the mesh's code.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use crate::{
    http,
    pattern::{self, Stream},
    pod::Pod,
    wait::wait_for,
};

/// How many ended connections a server remembers; the oldest go first.
const REMEMBERED: usize = 10_000;

/// What a server does with each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serve {
    /// Sends back what it reads; ends when the client does.
    Echo,
    /// HTTP/1.1 with keep-alive. Each answer names the pod (`x-pod`) and the client it sees (`x-client`); `/bytes/N` has a body
    /// of N bytes, `/status/N` that status.
    Http,
    /// Speaks first: sends this, then echoes.
    Greet(Vec<u8>),
    /// Sends so many bytes of the download pattern, ends its direction, and reads until the client ends.
    Source(u64),
    /// Reads the upload pattern until the client ends, then answers with the count of bytes as 8 bytes big-endian and ends.
    Sink,
    /// Sends so many bytes of the download pattern while it reads the upload pattern, and ends its direction when it has read
    /// all: a client that sees the end knows that everything arrived.
    Exchange(u64),
    /// Reads nothing until the client ends its direction, then sends all it got back: what half-close is for.
    AfterEnd,
    /// Accepts and never reads.
    Deaf,
}

/// How a connection ended, as the server saw it.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The client's address as the server's socket names it.
    pub client: SocketAddr,
    /// Bytes read.
    pub received: u64,
    /// Bytes written.
    pub sent: u64,
    /// `Ok`: both directions ended in order and every byte stood where it must. Otherwise what happened (`reset`, …).
    pub outcome: std::result::Result<(), String>,
}

#[derive(Debug, Default)]
struct Books {
    accepted: AtomicU64,
    open: AtomicU64,
    ended: Mutex<VecDeque<Ended>>,
}

/// A server that runs until it is dropped; its open connections are reset then.
#[derive(Debug)]
pub struct Server {
    pod: Pod,
    port: u16,
    books: Arc<Books>,
    task: AbortHandle,
}

impl Server {
    /// Port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its pod's first address and its port.
    pub fn address(&self) -> SocketAddr {
        (self.pod.ip(), self.port).into()
    }

    /// Its IPv4 address and port.
    pub fn v4(&self) -> SocketAddr {
        (self.pod.v4(), self.port).into()
    }

    /// Its IPv6 address and port.
    pub fn v6(&self) -> SocketAddr {
        (self.pod.v6(), self.port).into()
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.books.accepted.load(Ordering::Acquire)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.books.open.load(Ordering::Acquire)
    }

    /// The last connections that ended, oldest first.
    pub fn ended(&self) -> Vec<Ended> {
        self.books.ended.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until so many connections have ended, and returns the last one.
    pub fn wait_ended(&self, count: usize, deadline: Duration) -> Result<Ended> {
        wait_for(&format!("{count} connections of {} to end", self.pod.full_name()), deadline, || {
            let ended = self.books.ended.lock().unwrap_or_else(PoisonError::into_inner);
            Ok((ended.len() >= count).then(|| ended.back().cloned()).flatten())
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pod {
    /// Starts a server on all addresses of the pod; it accepts when this returns. Port 0 lets the kernel choose.
    pub fn serve(&self, port: u16, what: Serve) -> Result<Server> {
        let listener = self
            .listen(port)
            .with_context(|| format!("{} cannot listen on port {port}", self.full_name()))?;
        let port = listener.local_addr()?.port();
        let _inside = self.runtime().enter();
        let listener = TcpListener::from_std(listener)?;
        let books = Arc::new(Books::default());
        let task = self.runtime().spawn(accept(listener, what, self.full_name(), Arc::clone(&books)));
        Ok(Server { pod: self.clone(), port, books, task: task.abort_handle() })
    }

    /// A nonblocking listener in the pod, on all its addresses, for servers of the caller's own.
    pub fn listen(&self, port: u16) -> io::Result<std::net::TcpListener> {
        let v6 = self.addresses().any(|address| address.is_ipv6());
        let (domain, any): (_, IpAddr) = if v6 {
            (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into())
        } else {
            (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
        };
        let socket = self.ns().run(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)))?;
        if v6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }
}

/// Serves on a nonblocking listener for as long as the future is polled, in the name of `pod` (`namespace/name`): for a program
/// that plays an application in a process of its own.
pub async fn run(listener: std::net::TcpListener, what: Serve, pod: &str) -> io::Result<()> {
    accept(TcpListener::from_std(listener)?, what, pod.to_owned(), Arc::default()).await;
    Ok(())
}

async fn accept(listener: TcpListener, what: Serve, pod: String, books: Arc<Books>) {
    let what = Arc::new(what);
    // Owned here, so that a server that is dropped ends its connections.
    let mut connections = JoinSet::new();
    loop {
        let (stream, client) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%pod, %error, "an application cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        books.accepted.fetch_add(1, Ordering::AcqRel);
        books.open.fetch_add(1, Ordering::AcqRel);
        let (what, pod, books) = (Arc::clone(&what), pod.clone(), Arc::clone(&books));
        connections.spawn(async move {
            // A connection that is given up half-way must not look like a clean end to the client.
            let _ = stream.set_zero_linger();
            let _ = stream.set_nodelay(true);
            let mut tally = Tally { client, pod, received: 0, sent: 0 };
            let outcome = tally.conduct(stream, &what).await.map_err(|error| match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
                _ => error.to_string(),
            });
            let ended = Ended { client, received: tally.received, sent: tally.sent, outcome };
            let mut list = books.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if list.len() == REMEMBERED {
                list.pop_front();
            }
            list.push_back(ended);
            drop(list);
            books.open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// One connection's state while it is served.
struct Tally {
    client: SocketAddr,
    pod: String,
    received: u64,
    sent: u64,
}

impl Tally {
    async fn conduct(&mut self, mut stream: TcpStream, what: &Serve) -> io::Result<()> {
        match what {
            Serve::Echo => self.echo(&mut stream).await?,
            Serve::Greet(text) => {
                self.send(&mut stream, text).await?;
                self.echo(&mut stream).await?;
            }
            Serve::Http => self.http(&mut stream).await?,
            Serve::Source(bytes) => self.exchange(&mut stream, Some(*bytes), false).await?,
            Serve::Sink => {
                self.exchange(&mut stream, None, true).await?;
                let count = self.received.to_be_bytes();
                self.send(&mut stream, &count).await?;
            }
            Serve::Exchange(bytes) => self.exchange(&mut stream, Some(*bytes), true).await?,
            Serve::AfterEnd => {
                let mut all = Vec::new();
                (&mut stream).take(16 << 20).read_to_end(&mut all).await?;
                self.received = all.len() as u64;
                self.send(&mut stream, &all).await?;
            }
            Serve::Deaf => {
                // Ends only with the server: nothing is read, so nothing is learned of the client.
                std::future::pending::<()>().await;
            }
        }
        stream.shutdown().await?;
        // Both directions ended in order, so the end may be an ordinary one.
        socket2::SockRef::from(&stream).set_linger(None)
    }

    async fn send(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        stream.write_all(bytes).await?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    async fn echo(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            self.received += count as u64;
            self.send(stream, &buffer[..count]).await?;
        }
    }

    /// Sends `bytes` of the download pattern while it reads to the end. A mere source ends its direction once all is sent.
    async fn exchange(
        &mut self,
        stream: &mut TcpStream,
        bytes: Option<u64>,
        checked: bool,
    ) -> io::Result<()> {
        let (mut reader, mut writer) = stream.split();
        let (mut received, mut sent) = (0, 0);
        let send = async {
            let Some(bytes) = bytes else { return Ok(()) };
            while sent < bytes {
                let piece = pattern::from(Stream::Down, sent);
                let length = usize::try_from(bytes - sent).unwrap_or(usize::MAX).min(piece.len());
                sent += writer.write(&piece[..length]).await? as u64;
            }
            if checked { Ok(()) } else { writer.shutdown().await }
        };
        let receive = async {
            let mut buffer = vec![0; 128 * 1024];
            loop {
                let count = reader.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                if checked && let Err(at) = pattern::check(Stream::Up, received, &buffer[..count]) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("wrong byte at {at}")));
                }
                received += count as u64;
            }
        };
        let outcome = tokio::try_join!(send, receive);
        self.sent += sent;
        self.received += received;
        outcome.map(drop)
    }

    async fn http(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(4096);
        loop {
            let head = loop {
                if let Some(head) = http::take_head(&mut buffer)? {
                    break head;
                }
                let count = stream.read_buf(&mut buffer).await?;
                self.received += count as u64;
                if count == 0 {
                    let clean = buffer.is_empty();
                    return if clean { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                }
            };
            let body = head.content_length();
            while buffer.len() < body {
                let count = stream.read_buf(&mut buffer).await?;
                self.received += count as u64;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            buffer.drain(..body);
            self.answer(stream, &head).await?;
            if head.closes() {
                return Ok(());
            }
        }
    }

    async fn answer(&mut self, stream: &mut TcpStream, head: &http::Head) -> io::Result<()> {
        let (method, path) = head.request().unwrap_or(("?", "?"));
        let mut status = 200;
        let mut body = format!("{} saw {method} {path} from {}\n", self.pod, self.client).into_bytes();
        if let Some(length) = path.strip_prefix("/bytes/").and_then(|length| length.parse::<usize>().ok()) {
            body.clear();
            let length = length.min(64 << 20);
            while body.len() < length {
                let piece = pattern::from(Stream::Down, body.len() as u64);
                body.extend_from_slice(&piece[..piece.len().min(length - body.len())]);
            }
        } else if let Some(asked) = path.strip_prefix("/status/").and_then(|status| status.parse().ok()) {
            status = asked;
        }
        let client = self.client.to_string();
        let fields = [("x-pod", self.pod.as_str()), ("x-client", client.as_str())];
        let mut answer = http::response(status, &fields, body.len()).into_bytes();
        answer.append(&mut body);
        self.send(stream, &answer).await
    }
}
