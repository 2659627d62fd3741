//! Why a connection is not carried: the one table from errors to what the record says and what is tried next.

use std::io;
use std::net::SocketAddr;

use aquifer_model::{Denial, Refusal};
use aquifer_pki::PeerError;
use aquifer_telemetry::{Closer, FlowEnd, Hop, Verdict};

/// A connection that was not carried.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    verdict: Verdict,
    code: String,
    detail: String,
    hop: Option<Hop>,
    policy: Option<String>,
    pub(crate) next: Next,
}

/// What may be tried after a failure. Nothing of the connection was sent yet in any of them but `GiveUp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    GiveUp,
    /// Another endpoint of the service.
    AnotherEndpoint,
    /// The same again, resolved anew: the peer may not have enrolled the pod yet.
    AgainSoon,
}

impl Failure {
    fn new(verdict: Verdict, hop: Option<Hop>, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict, code: code.into(), detail: detail.into(), hop, policy: None, next: Next::GiveUp }
    }

    /// A failure that is nobody's policy.
    pub(crate) fn failed(hop: Hop, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Verdict::Failed, Some(hop), code, detail)
    }

    pub(crate) fn then(mut self, next: Next) -> Self {
        self.next = next;
        self
    }

    /// TLS with the other side failed: where a verifier of ours refused it, for that reason and in its words.
    pub(crate) fn tls(error: &rustls::Error, code: &str, otherwise: String) -> Self {
        match PeerError::from_tls(error) {
            Some(peer) => Self::failed(Hop::Tls, peer.code(), peer.to_string()),
            None => Self::failed(Hop::Tls, code, otherwise),
        }
    }

    /// The mesh's configuration has no way for this connection.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        Self::new(Verdict::Failed, None, refusal.code(), refusal.to_string())
    }

    /// This node's policy forbids it.
    pub(crate) fn denied(denial: &Denial) -> Self {
        let mut failure = Self::new(Verdict::Denied, None, denial.reason.code(), denial.to_string());
        failure.policy = denial.by.as_ref().map(ToString::to_string);
        failure
    }

    /// The peer's node refused it.
    pub(crate) fn refused_by_peer(status: u16, code: &str, detail: String) -> Self {
        let verdict = if status == 401 || status == 403 { Verdict::Denied } else { Verdict::Failed };
        let next = if status == 503 { Next::AnotherEndpoint } else { Next::GiveUp };
        Self::new(verdict, Some(Hop::Peer), code, detail).then(next)
    }

    /// A destination inside the mesh's networks stayed unknown.
    pub(crate) fn unknown_destination(destination: SocketAddr, waited: std::time::Duration) -> Self {
        Self::new(
            Verdict::Failed,
            None,
            "unknown-destination",
            format!(
                "{destination} is inside the mesh's networks, and no workload or service has it (waited {} s): if it is \
                 outside the mesh, narrow --mesh-networks",
                waited.as_secs()
            ),
        )
    }

    /// The application went away while its connection was being made.
    pub(crate) fn abandoned() -> Self {
        let mut failure = Self::failed(
            Hop::Application,
            "abandoned",
            "the client reset the connection before it was established",
        );
        failure.verdict = Verdict::Failed;
        failure
    }

    /// The client closed its end without a byte, before it was known who it is.
    pub(crate) fn gone_at_once() -> Self {
        let detail = "the client closed the connection at once and sent nothing, as a TCP probe does; the pod saw none of it";
        Self::failed(Hop::Application, "abandoned", detail)
    }

    /// The application that was called did not take the connection.
    pub(crate) fn connect(hop: Hop, to: SocketAddr, error: &io::Error) -> Self {
        if out_of_descriptors(error) {
            return Self::exhausted();
        }
        let (code, what) = match error.kind() {
            io::ErrorKind::ConnectionRefused => ("connection-refused", "nothing listens there"),
            io::ErrorKind::TimedOut => {
                ("connect-timeout", "no answer; is the pod reachable, does a NetworkPolicy block it?")
            }
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                ("unreachable", "there is no route to it")
            }
            _ => ("connect-failed", "the connect failed"),
        };
        Self::failed(hop, code, format!("{to}: {what} ({error})")).then(Next::AnotherEndpoint)
    }

    /// This process, or the machine, has no descriptor left for it.
    pub(crate) fn exhausted() -> Self {
        let detail = "this node has no file descriptor left: raise RLIMIT_NOFILE (fs.file-max) or lower --max-connections";
        Self::new(Verdict::Failed, None, "out-of-descriptors", detail)
    }

    /// The reason code.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// The sentence for people.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// What the flow record says.
    pub(crate) fn end(self) -> FlowEnd {
        FlowEnd {
            verdict: self.verdict,
            reason: Some(self.code),
            detail: Some(self.detail),
            policy: self.policy,
            closed_by: Some(Closer::Proxy),
            hop: self.hop,
        }
    }
}

/// Whether an error, or one that it came from, says that descriptors ran out.
pub(crate) fn out_of_descriptors(error: &io::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if matches!(code, Some(nix::libc::EMFILE | nix::libc::ENFILE)) {
            return true;
        }
        next = error.source();
    }
    false
}
