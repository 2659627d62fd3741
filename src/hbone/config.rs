//! Every number that shapes a tunnel, with its default, its unit and the reason for it.

use std::time::Duration;

/// How tunnels behave. One value serves both halves; `Default` gives the numbers of Istio's ambient mode where they
/// are good, and ours where they are not.
#[derive(Clone, Debug)]
pub struct Config {
    /// Time for TLS and the HTTP/2 preface together, on either side. A peer that is slower is given up.
    pub handshake: Duration,
    /// Time from a CONNECT request to the peer's answer. It covers the peer's own dial to its application.
    pub reply: Duration,
    /// Pause between two PINGs on a tunnel.
    pub ping: Duration,
    /// A tunnel from which nothing arrived for this long after a PING is dead.
    pub ping_timeout: Duration,
    /// A dialled tunnel that carried no stream for this long is closed.
    pub idle: Duration,
    /// Streams that one dialled tunnel carries at most; the peer's own limit is kept where it is lower.
    pub client_streams: u32,
    /// Streams that a peer may hold open on one accepted tunnel. Past it the peer sees REFUSED_STREAM.
    pub server_streams: u32,
    /// Bytes that a peer may send on one stream before its reader takes some of them.
    pub stream_window: u32,
    /// Bytes that a peer may send on all streams together before the first of them arrived. It bounds what stands in line in a
    /// tunnel, and so how long a small message waits behind a bulk transfer. It is given back on arrival, so a reader that
    /// stops takes nothing from its neighbours; what waits for readers is bounded by the streams' windows and [`crate::Budget`].
    pub connection_window: u32,
    /// Largest DATA frame that is accepted, in bytes.
    pub frame: u32,
    /// Largest header list that is accepted, in bytes. Requests here carry a handful of short headers.
    pub header_list: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            reply: Duration::from_secs(10),
            ping: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            idle: Duration::from_secs(300),
            client_streams: 100,
            server_streams: 200,
            stream_window: 4 << 20,
            connection_window: 4 << 20,
            frame: 1 << 20,
            header_list: 16 << 10,
        }
    }
}
