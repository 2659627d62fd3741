//! What two halves of this crate cost on loopback: client → node 1 ═ tunnel ═ node 2 → server, each node one thread, both
//! applications another one. It prints requests, connections and bulk, and the processor time of each thread.
//!
//! `cargo run --release -p aquifer-hbone --example loopback [seconds a measurement [bytes a message]]`

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to recover")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aquifer_hbone::copy::{self, Application, Options};
use aquifer_hbone::pool::{Pool, PoolConfig};
use aquifer_hbone::{Authority, Budget, Cause, Config, ConnectRequest, accept, dial};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const PIECE: usize = 64 << 10;

fn main() {
    let argument = |n| std::env::args().nth(n).and_then(|text| text.parse::<f64>().ok());
    let time = Duration::from_secs_f64(argument(1).unwrap_or(3.0));
    let message = argument(2).unwrap_or(128.0) as usize;
    let (client_tls, server_tls) = tls();
    let hbone = node("node-2", |listener| node_2(listener, server_tls));
    let captured = node("node-1", move |listener| node_1(listener, hbone, client_tls));
    runtime().block_on(async {
        let server = server().await;
        println!("{:<28}{:>14}{:>12}{:>12}{:>12}{:>12}", "", "rate", "p50 µs", "p99 µs", "node-1", "node-2");
        for (name, to) in [("direct", server), ("tunnel", captured)] {
            for connections in [1, 64] {
                requests(&format!("{name}: requests, {connections} conns"), to, connections, message, time)
                    .await;
            }
            connects(&format!("{name}: connections"), to, time).await;
            for (streams, up) in [(1, true), (1, false), (8, true), (8, false)] {
                let way = if up { "up" } else { "down" };
                bulk(&format!("{name}: bulk {way}, {streams} streams"), to, streams, up, time).await;
            }
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A thread with a listener and a runtime of its own.
fn node<F: Future<Output = ()>>(
    name: &str,
    work: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> SocketAddr {
    let (to, from) = std::sync::mpsc::channel();
    let thread = move || {
        runtime().block_on(async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            to.send(listener.local_addr().unwrap()).unwrap();
            work(listener).await;
        });
    };
    std::thread::Builder::new().name(name.into()).spawn(thread).unwrap();
    from.recv().unwrap()
}

/// One port serves all: the first byte that a client sends says whether it wants an echo, a sink or a source.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind(SERVER).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            io.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; PIECE];
                match io.read_u8().await.unwrap_or(b'x') {
                    b'e' => {
                        while let Ok(n @ 1..) = io.read(&mut buffer).await {
                            if io.write_all(&buffer[..n]).await.is_err() {
                                break;
                            }
                        }
                    }
                    b's' => while let Ok(1..) = io.read(&mut buffer).await {},
                    _ => while io.write_all(&buffer).await.is_ok() {},
                }
            });
        }
    });
    address
}

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 19_080);

async fn node_1(listener: TcpListener, hbone: SocketAddr, tls: Arc<ClientConfig>) {
    let (pool, budget) = (Pool::new(PoolConfig::default()), Budget::new(1 << 30));
    loop {
        let (app, _) = listener.accept().await.unwrap();
        app.set_nodelay(true).unwrap();
        let (pool, budget, tls) = (pool.clone(), Arc::clone(&budget), Arc::clone(&tls));
        tokio::spawn(async move {
            let dialer = move || {
                let tls = Arc::clone(&tls);
                async move {
                    dial(TcpStream::connect(hbone).await.unwrap(), hbone, tls, anyone, &Config::default())
                        .await
                }
            };
            let (stream, ..) = pool.open(&(), &dialer, &ConnectRequest::to(SERVER)).await.unwrap();
            let options = Options { half_close_idle: None, budget, cut: std::future::pending() };
            copy::tunnel(app, Application::Client, stream, Arc::new(()), options).await;
        });
    }
}

async fn node_2(listener: TcpListener, tls: Arc<ServerConfig>) {
    let budget = Budget::new(1 << 30);
    loop {
        let (io, _) = listener.accept().await.unwrap();
        let (tls, budget) = (Arc::clone(&tls), Arc::clone(&budget));
        tokio::spawn(async move {
            let (mut incoming, ()) = accept(io, tls, anyone, &Config::default()).await.unwrap();
            while let Some(Ok(connect)) = incoming.next().await {
                let budget = Arc::clone(&budget);
                tokio::spawn(async move {
                    let Ok(ConnectRequest { authority: Authority::Ip(to), .. }) = connect.request else {
                        return;
                    };
                    let app = TcpStream::connect(to).await.unwrap();
                    app.set_nodelay(true).unwrap();
                    let Ok(stream) = connect.admit(None) else { return };
                    let options = Options { half_close_idle: None, budget, cut: std::future::pending() };
                    copy::tunnel(app, Application::Server, stream, Arc::new(()), options).await;
                });
            }
        });
    }
}

fn anyone(_: &[CertificateDer<'static>]) -> Result<(), Cause> {
    Ok(())
}

async fn requests(what: &str, to: SocketAddr, connections: usize, message: usize, time: Duration) {
    let mut clients = JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..connections {
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut io = TcpStream::connect(to).await.unwrap();
            io.set_nodelay(true).unwrap();
            io.write_u8(b'e').await.unwrap();
            let (mut taken, mut buffer) = (Vec::new(), vec![1; message]);
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                io.write_all(&buffer).await.unwrap();
                io.read_exact(&mut buffer).await.unwrap();
                taken.push(start.elapsed());
            }
            taken
        });
    }
    finish(what, clients, &stop, time).await;
}

async fn connects(what: &str, to: SocketAddr, time: Duration) {
    let mut clients = JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..16 {
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut taken = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let mut io = TcpStream::connect(to).await.unwrap();
                io.write_all(b"ex").await.unwrap();
                io.read_u8().await.unwrap();
                io.shutdown().await.unwrap();
                assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
                taken.push(start.elapsed());
            }
            taken
        });
    }
    finish(what, clients, &stop, time).await;
}

async fn finish(what: &str, clients: JoinSet<Vec<Duration>>, stop: &AtomicBool, time: Duration) {
    let (start, before) = (Instant::now(), processor());
    tokio::time::sleep(time).await;
    let (elapsed, after) = (start.elapsed(), processor());
    stop.store(true, Ordering::Relaxed);
    let mut taken: Vec<Duration> = clients.join_all().await.concat();
    taken.sort_unstable();
    let at = |part: f64| taken[((taken.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    let (count, rate) = (taken.len() as f64, taken.len() as f64 / elapsed.as_secs_f64());
    let cost = |n: usize| (after[n] - before[n]) / count * 1e6;
    println!(
        "{what:<28}{rate:>12.0}/s{:>12.0}{:>12.0}{:>10.1}µs{:>10.1}µs",
        at(0.5),
        at(0.99),
        cost(0),
        cost(1)
    );
}

async fn bulk(what: &str, to: SocketAddr, streams: usize, up: bool, time: Duration) {
    let mut clients = JoinSet::new();
    let total = Arc::new(AtomicU64::new(0));
    for _ in 0..streams {
        let total = Arc::clone(&total);
        clients.spawn(async move {
            let mut io = TcpStream::connect(to).await.unwrap();
            io.write_u8(if up { b's' } else { b'd' }).await.unwrap();
            let mut buffer = vec![1; PIECE];
            loop {
                let n = if up { io.write(&buffer).await } else { io.read(&mut buffer).await };
                total.fetch_add(n.unwrap() as u64, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(time / 4).await;
    let (start, before, bytes) = (Instant::now(), processor(), total.load(Ordering::Relaxed));
    tokio::time::sleep(time).await;
    let (elapsed, after) = (start.elapsed(), processor());
    let bytes = (total.load(Ordering::Relaxed) - bytes) as f64;
    let cost = |n: usize| (after[n] - before[n]) / bytes * 1e9;
    let rate = bytes * 8.0 / elapsed.as_secs_f64() / 1e9;
    println!("{what:<28}{rate:>10.2} Gb/s{:>24}{:>8.2}s/GB{:>8.2}s/GB", "", cost(0), cost(1));
    clients.shutdown().await;
}

/// Seconds of processor time of both nodes' threads so far.
fn processor() -> [f64; 2] {
    let mut used = [0.0; 2];
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let spent = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let spent = spent.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
        match name.trim() {
            "node-1" => used[0] += spent,
            "node-2" => used[1] += spent,
            _ => {}
        }
    }
    used
}

fn tls() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let leaf = || {
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let (roots, mut provider) = (Arc::new(roots), aws_lc_rs::default_provider());
    // The faster one comes first, as the product has it on machines with AES in hardware.
    provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let (chain, key) = leaf();
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain, key)
        .unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
    let (chain, key) = leaf();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    client.alpn_protocols = vec![b"h2".to_vec()];
    server.alpn_protocols = vec![b"h2".to_vec()];
    (client.enable_secret_extraction, server.enable_secret_extraction) = (true, true);
    (client.into(), server.into())
}
