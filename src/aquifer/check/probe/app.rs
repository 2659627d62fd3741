//! What runs in a pod of the probe: it echoes what callers say, and calls whom it is told to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Where it is called.
pub(super) const PORT: u16 = 8080;
/// Where it is told whom to call; on loopback, so that only the API server's port-forward reaches it.
pub(super) const ORDERS: u16 = 8081;

/// What is said and echoed.
const GREETING: &[u8; 16] = b"aquifer probe\r\n\0";

/// Connections at once.
const GUESTS: usize = 32;

/// A connection may take so long, of either kind. Longer than a node dials.
const LIFE: Duration = Duration::from_secs(19);

/// Bytes of an order.
const ORDER: u64 = 128;

/// What became of a call, one line of JSON.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// It was answered, after so many milliseconds.
    Answered(f64),
    Failed(String),
}

/// Serves until it is killed.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let calls = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.context("the port for calls")?,
    };
    let orders = TcpListener::bind((Ipv4Addr::LOCALHOST, ORDERS)).await.context("the port for orders")?;
    let places = Arc::new(Semaphore::new(GUESTS));
    loop {
        let (stream, is_order) = tokio::select! {
            accepted = calls.accept() => (accepted?.0, false),
            accepted = orders.accept() => (accepted?.0, true),
        };
        // Past the bound the caller sees the end at once.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        tokio::spawn(async move {
            // Who hangs up has its answer, or wants none.
            let _ = match is_order {
                true => timeout(LIFE, obey(stream)).await,
                false => timeout(LIFE, echo(stream)).await,
            };
            drop(place);
        });
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut said = [0; GREETING.len()];
    stream.read_exact(&mut said).await?;
    stream.write_all(&said).await?;
    stream.shutdown().await
}

async fn obey(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut order = String::new();
    (&mut stream).take(ORDER).read_line(&mut order).await?;
    let outcome = match order.trim().parse() {
        Ok(address) => match timeout(LIFE, call(address)).await {
            Ok(Ok(took)) => Outcome::Answered(took.as_secs_f64() * 1e3),
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) => Outcome::Failed(format!("no answer within {} s", LIFE.as_secs())),
        },
        Err(_) => Outcome::Failed("the order is no IP:PORT".to_owned()),
    };
    let mut line = serde_json::to_vec(&outcome)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).await
}

/// Connects, says the greeting and hears it again.
async fn call(address: SocketAddr) -> std::io::Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(GREETING).await?;
    let mut heard = Vec::new();
    stream.take(ORDER).read_to_end(&mut heard).await?;
    match heard == GREETING {
        true => Ok(began.elapsed()),
        false => Err(std::io::Error::other(format!("{} of {} bytes came back", heard.len(), GREETING.len()))),
    }
}

/// Reads the answer to an order: the milliseconds, or what the caller saw.
pub(super) fn outcome(line: &str) -> Result<f64, String> {
    match serde_json::from_str(line) {
        Ok(Outcome::Answered(milliseconds)) => Ok(milliseconds),
        Ok(Outcome::Failed(why)) => Err(why),
        Err(_) => Err("the probe's pod gave no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_ordered_made_and_told() {
        let echoes = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = echoes.local_addr().unwrap();
        tokio::spawn(async move { echo(echoes.accept().await.unwrap().0).await });
        let orders = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut order = TcpStream::connect(orders.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move { obey(orders.accept().await.unwrap().0).await });
        order.write_all(format!("{address}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        order.read_to_string(&mut line).await.unwrap();
        assert!(outcome(&line).is_ok_and(|milliseconds| milliseconds > 0.0), "{line}");
    }

    #[test]
    fn what_is_no_answer_is_a_failure() {
        assert!(outcome("").is_err());
        assert_eq!(outcome("{\"failed\":\"reset\"}\n"), Err("reset".to_owned()));
        assert_eq!(outcome("{\"answered\":1.5}\n"), Ok(1.5));
    }
}
