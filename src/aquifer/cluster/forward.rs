//! Admin pages of pods, through the API server's port-forward: they are on loopback there, and the right to forward is the right to
//! read them.

use std::time::Duration;

use aquifer_k8s::{Pod, names};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::DATE;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use kube::api::Portforwarder;
use kube::{Api, Client};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A page may take so long; a node shows 10,000 connections in far less.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a page. The largest is a snapshot, with 10,000 lines of a few hundred bytes in each of its lists.
const LARGEST: usize = 64 * 1024 * 1024;

/// Bytes of the text in which a pod says why it has no such page.
const REFUSAL: usize = 1024;

/// Any error of a library on the way.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a page of a pod could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The API server does not forward to it.
    #[error("the API server does not forward to {pod}: {error}")]
    Forward { pod: String, error: Box<kube::Error> },
    /// It was forwarded, and the talk broke off.
    #[error("{pod} did not answer for {path}: {error}")]
    Talk { pod: String, path: String, error: Cause },
    /// It has no such page, or is of another version.
    #[error("{pod} answered {status} for {path}: {text}")]
    Status { pod: String, path: String, status: StatusCode, text: String },
    /// Nothing came in time.
    #[error("{pod} did not answer for {path} within {} s", PATIENCE.as_secs())]
    Late { pod: String, path: String },
}

impl Failure {
    /// The talk broke off.
    pub(crate) fn talk(pod: &str, path: &str, error: impl Into<Cause>) -> Self {
        Self::Talk { pod: pod.to_owned(), path: path.to_owned(), error: error.into() }
    }
}

/// An answer whose body is still to come. Dropping it ends the talk.
pub(crate) struct Answer {
    /// What follows the head.
    pub(crate) body: Incoming,
    /// See [`Page::ahead`].
    ahead: Option<SignedDuration>,
    talk: JoinHandle<hyper::Result<()>>,
    forwarder: Portforwarder,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.talk.abort();
        self.forwarder.abort();
    }
}

/// A page as it came.
pub(crate) struct Page {
    pub(crate) text: Bytes,
    /// How far the clock of its pod is ahead of this machine's; to a second, and to the time that the answer took.
    pub(crate) ahead: Option<SignedDuration>,
}

/// One JSON page of one pod of the mesh.
pub(crate) async fn get(client: &Client, pod: &str, path: &str) -> Result<Value, Failure> {
    let page = page(client, pod, &Method::GET, path).await?;
    serde_json::from_slice(&page.text).map_err(|error| Failure::talk(pod, path, error))
}

/// One page of one pod of the mesh, or the answer to a POST.
pub(crate) async fn page(client: &Client, pod: &str, method: &Method, path: &str) -> Result<Page, Failure> {
    let page = async {
        let mut answer = ask(client, pod, method, path).await?;
        let body = Limited::new(&mut answer.body, LARGEST).collect().await;
        let text = body.map_err(|error| Failure::talk(pod, path, error))?.to_bytes();
        Ok(Page { text, ahead: answer.ahead })
    };
    timeout(PATIENCE, page).await.unwrap_or_else(|_| Err(late(pod, path)))
}

/// Asks one pod of the mesh for a page; the head of a good answer has come.
pub(crate) async fn open(client: &Client, pod: &str, path: &str) -> Result<Answer, Failure> {
    timeout(PATIENCE, ask(client, pod, &Method::GET, path)).await.unwrap_or_else(|_| Err(late(pod, path)))
}

/// How far the clock that wrote a `Date` header is ahead of this machine's.
pub(crate) fn ahead(headers: &HeaderMap) -> Option<SignedDuration> {
    let date = headers.get(DATE)?.to_str().ok()?;
    Some(DateTimeParser::new().parse_timestamp(date).ok()?.duration_since(Timestamp::now()))
}

/// A connection to a port of a pod, on its loopback.
///
/// # Errors
/// The API server does not forward, or not in time.
pub(crate) async fn connect(
    client: &Client,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<(Portforwarder, impl AsyncRead + AsyncWrite + Unpin + Send + 'static), Failure> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut forwarder = api
        .portforward(pod, &[port])
        .await
        .map_err(|error| Failure::Forward { pod: pod.to_owned(), error: Box::new(error) })?;
    let stream = forwarder.take_stream(port);
    let stream =
        stream.ok_or_else(|| Failure::talk(pod, &format!(":{port}"), "the port was not forwarded"))?;
    Ok((forwarder, stream))
}

fn late(pod: &str, path: &str) -> Failure {
    Failure::Late { pod: pod.to_owned(), path: path.to_owned() }
}

async fn ask(client: &Client, pod: &str, method: &Method, path: &str) -> Result<Answer, Failure> {
    let (forwarder, stream) = connect(client, names::SYSTEM_NAMESPACE, pod, names::ADMIN_PORT).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| Failure::talk(pod, path, error))?;
    let talk = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::talk(pod, path, error))?;
    let response = sender.send_request(request).await.map_err(|error| Failure::talk(pod, path, error))?;
    let (status, ahead) = (response.status(), ahead(response.headers()));
    let mut answer = Answer { body: response.into_body(), ahead, talk, forwarder };
    if status == StatusCode::OK {
        return Ok(answer);
    }
    let text = Limited::new(&mut answer.body, REFUSAL).collect().await.map(|body| body.to_bytes());
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).trim().to_owned();
    Err(Failure::Status { pod: pod.to_owned(), path: path.to_owned(), status, text })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_clock_is_read_from_the_date_of_an_answer() {
        let headers = |date: &'static str| HeaderMap::from_iter([(DATE, HeaderValue::from_static(date))]);
        let found = ahead(&headers("Thu, 01 Jan 1970 00:00:10 GMT")).unwrap();
        assert!((Timestamp::now().as_second() - 10 + found.as_secs()).abs() <= 1, "{found:?}");
        assert_eq!(ahead(&headers("yesterday")), None);
        assert_eq!(ahead(&HeaderMap::new()), None);
    }
}
