//! One connection as one reporter sees it: what it starts with, what it counts, how it ends.

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_model::{Identity, Service, Workload};

/// Which side of the connection writes: the client's node or the server's. A connection between two captured pods
/// is reported by both, as in Istio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's node (direction outbound).
    Source,
    /// The server's node (direction inbound).
    Destination,
}

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// In an HBONE tunnel: mutual TLS between the nodes.
    Tunnel,
    /// Handed over inside one node's process, both identities known and checked.
    SameNode,
    /// In clear between a workload of the mesh and one outside.
    Plaintext,
    /// Untouched, to what the mesh does not resolve.
    Passthrough,
}

/// What became of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Carried to its end.
    Allowed,
    /// Policy refused or cut it.
    Denied,
    /// Not carried, or broken on the way, and policy had no part in it.
    Failed,
}

/// Who closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closer {
    /// The client.
    Source,
    /// The server.
    Destination,
    /// One of the proxies: policy, drain, limits, timeouts.
    Proxy,
}

/// Where on the way an error happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// The socket of the application that is captured here.
    Application,
    /// The TCP connect to the next hop.
    Dial,
    /// The TLS handshake with the peer node.
    Tls,
    /// The HTTP/2 connection or stream.
    Tunnel,
    /// The peer's proxy answered, and refused.
    Peer,
    /// The destination application behind the last proxy.
    Destination,
}

/// One end of a connection, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address as the connection sees it.
    pub address: Option<SocketAddr>,
    /// The workload at that address.
    pub workload: Option<Arc<Workload>>,
    /// Its identity where proved: by TLS, or by the network namespace the socket lives in.
    pub identity: Option<Identity>,
}

/// What is known when a connection begins.
#[derive(Clone, Debug)]
pub struct FlowStart {
    /// Which side writes.
    pub reporter: Reporter,
    /// The client.
    pub source: Peer,
    /// The server.
    pub destination: Peer,
    /// The Service that the client called, if it called one.
    pub service: Option<Arc<Service>>,
    /// The address that the client called, before resolution.
    pub original_destination: Option<SocketAddr>,
    /// How it travels.
    pub path: Path,
    /// Whether mutual TLS carries it.
    pub tls: bool,
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub struct FlowEnd {
    /// What became of it.
    pub verdict: Verdict,
    /// Why, as a kebab-case code.
    pub reason: Option<String>,
    /// One sentence for people.
    pub detail: Option<String>,
    /// The policy and rule that decided.
    pub policy: Option<String>,
    /// Who closed first.
    pub closed_by: Option<Closer>,
    /// Where it failed.
    pub hop: Option<Hop>,
}

impl FlowEnd {
    /// It was carried, and one end closed it.
    pub fn carried(closed_by: Closer) -> Self {
        Self { closed_by: Some(closed_by), ..Self::of(Verdict::Allowed) }
    }

    /// Policy refused or cut it. `policy` is the deciding rule, where there is one.
    pub fn denied(reason: impl Into<String>, detail: impl Into<String>, policy: Option<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            detail: Some(detail.into()),
            policy,
            closed_by: Some(Closer::Proxy),
            ..Self::of(Verdict::Denied)
        }
    }

    /// It failed at `hop`.
    pub fn failed(hop: Hop, reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            detail: Some(detail.into()),
            hop: Some(hop),
            ..Self::of(Verdict::Failed)
        }
    }

    fn of(verdict: Verdict) -> Self {
        Self { verdict, reason: None, detail: None, policy: None, closed_by: None, hop: None }
    }
}

/// A live connection. Counting is lock-free; dropping it without [`Flow::finish`] records it as failed, `aborted`.
#[derive(Debug)]
pub struct Flow {}

#[allow(clippy::todo, unused_variables)]
impl Flow {
    /// Number of the connection, unique in this process and never 0.
    pub fn id(&self) -> u64 {
        todo!()
    }
    /// The connection is established end to end: from here its metric labels are settled, and it counts as opened.
    /// The first byte does the same; call this where a connection may stay silent for long.
    pub fn established(&self) {
        todo!()
    }
    /// Counts bytes from client to server.
    pub fn sent(&self, bytes: u64) {
        todo!()
    }
    /// Counts bytes from server to client.
    pub fn received(&self, bytes: u64) {
        todo!()
    }
    /// Bytes so far: from client to server, from server to client.
    pub fn bytes(&self) -> (u64, u64) {
        todo!()
    }
    /// What it started with, or was changed to since.
    pub fn start(&self) -> &FlowStart {
        todo!()
    }
    /// Corrects the path and whether TLS carries it. After [`Flow::established`] this changes the record only.
    pub fn set_path(&mut self, path: Path, tls: bool) {
        todo!()
    }
    /// Corrects the client's end (a proved identity).
    pub fn set_source(&mut self, source: Peer) {
        todo!()
    }
    /// Corrects the server's end. After [`Flow::established`] this changes the record only.
    pub fn set_destination(&mut self, destination: Peer, service: Option<Arc<Service>>) {
        todo!()
    }
    /// Names the rule that let it through, for the record of a connection that ends well.
    pub fn set_policy(&mut self, policy: Option<String>) {
        todo!()
    }
    /// Ends the connection and writes its record.
    pub fn finish(self, end: FlowEnd) {
        todo!()
    }
}
