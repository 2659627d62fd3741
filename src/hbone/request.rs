//! The CONNECT request: where the stream leads, and the headers that say whose it is. All parsers are bounded and
//! never panic; what a peer writes in headers is information, never identity.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::baggage::Baggage;
use crate::head::{self, Fields};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Longest host name, as DNS bounds it.
const MAX_HOST: usize = 253;
/// Longest `forwarded` header that is read.
const MAX_FORWARDED: usize = 512;

/// A request that is no CONNECT of ours, or one that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Another method than CONNECT.
    #[error("the method is not CONNECT")]
    Method,
    /// No `ip:port`, `[v6]:port` or `host:port`.
    #[error("the authority is not ip:port, [v6]:port or host:port")]
    Authority,
    /// The `forwarded` header has another shape than `for="ip:port"[;host=name]`.
    #[error("the forwarded header is malformed")]
    Forwarded,
}

impl RequestError {
    /// A short code in kebab case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Method => "not-connect",
            Self::Authority => "bad-authority",
            Self::Forwarded => "bad-forwarded",
        }
    }
}

/// Where a stream leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address and port.
    Ip(SocketAddr),
    /// A host name and port: a service's, or through an east-west gateway. Lower case, no trailing dot.
    Host(Box<str>, u16),
}

impl Authority {
    /// Reads `ip:port`, `[v6]:port` or `host:port`; the port is never 0.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        if text.len() > MAX_HOST + ":65535".len() {
            return Err(RequestError::Authority);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 || has_scope(&address) {
                Err(RequestError::Authority)
            } else {
                Ok(Self::Ip(address))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(RequestError::Authority)?;
        let port = parse_port(port).ok_or(RequestError::Authority)?;
        let host = parse_host(host).ok_or(RequestError::Authority)?;
        Ok(Self::Host(host, port))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Host(_, port) => *port,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(match address {
            // A zone or flow label means something on this machine only.
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into(),
            v4 => v4,
        })
    }
}

/// The `forwarded` header: for whom the sender acts. It sets the source address only where the sender is the
/// destination's own waypoint, proved by TLS; that is the caller's check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's address and port.
    pub source: SocketAddr,
    /// The host name of the service that was called.
    pub host: Option<Box<str>>,
}

impl Forwarded {
    /// Reads `for="ip:port"[;host=name]`; the quotes may be absent around IPv4, names of pairs are case-insensitive,
    /// pairs of other names are passed over.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        if text.len() > MAX_FORWARDED {
            return Err(RequestError::Forwarded);
        }
        let (mut source, mut host) = (None, None);
        for pair in text.split(';') {
            let (name, value) = pair.split_once('=').ok_or(RequestError::Forwarded)?;
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            if name.trim().eq_ignore_ascii_case("for") {
                let address: SocketAddr = value.parse().map_err(|_| RequestError::Forwarded)?;
                if has_scope(&address) || source.replace(address).is_some() {
                    return Err(RequestError::Forwarded);
                }
            } else if name.trim().eq_ignore_ascii_case("host") {
                let name = parse_host(value).ok_or(RequestError::Forwarded)?;
                if host.replace(name).is_some() {
                    return Err(RequestError::Forwarded);
                }
            }
        }
        Ok(Self { source: source.ok_or(RequestError::Forwarded)?, host })
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for=\"{}\"", self.source)?;
        self.host.as_ref().map_or(Ok(()), |host| write!(f, ";host={host}"))
    }
}

/// The W3C `traceparent` header, version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace; never 0.
    pub trace: u128,
    /// The sender's span; never 0.
    pub span: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

impl Traceparent {
    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`. A header of another shape starts no trace, and is no error.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        if parts.next()? != "00" {
            return None;
        }
        let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
            return None;
        }
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if ![trace, span, flags].into_iter().all(hex) {
            return None;
        }
        let this = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (this.trace != 0 && this.span != 0).then_some(this)
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// What a client asks of the peer's proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where the stream leads.
    pub authority: Authority,
    /// The client workload, in words.
    pub baggage: Option<Baggage>,
    /// For whom a waypoint or gateway acts.
    pub forwarded: Option<Forwarded>,
    /// The trace that the connection belongs to.
    pub traceparent: Option<Traceparent>,
}

impl ConnectRequest {
    /// A request with an authority and no headers.
    pub fn to(authority: impl Into<Authority>) -> Self {
        Self { authority: authority.into(), baggage: None, forwarded: None, traceparent: None }
    }

    /// The header block of the request.
    pub(crate) fn block(&self) -> Result<Vec<u8>, RequestError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = self.baggage.as_ref().and_then(Baggage::to_header) {
            headers.insert(BAGGAGE, value);
        }
        if let Some(forwarded) = &self.forwarded {
            let value = HeaderValue::try_from(forwarded.to_string()).map_err(|_| RequestError::Forwarded)?;
            headers.insert(FORWARDED, value);
        }
        if let Some(value) = self.traceparent.and_then(|t| HeaderValue::try_from(t.to_string()).ok()) {
            headers.insert(TRACEPARENT, value);
        }
        Ok(head::request(&self.authority.to_string(), &headers))
    }

    pub(crate) fn from_fields(fields: &Fields) -> Result<Self, RequestError> {
        if fields.method.as_deref() != Some("CONNECT") {
            return Err(RequestError::Method);
        }
        let authority = fields.authority.as_deref().ok_or(RequestError::Authority)?;
        let authority = Authority::parse(authority)?;
        let headers = &fields.headers;
        Ok(Self {
            authority,
            baggage: Baggage::from_headers(headers),
            forwarded: text(headers, &FORWARDED).map(Forwarded::parse).transpose()?,
            traceparent: text(headers, &TRACEPARENT).and_then(Traceparent::parse),
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    // Bytes outside ASCII are no value of ours; an empty text then fails the header's own parser.
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

fn has_scope(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0)
}

fn parse_port(text: &str) -> Option<u16> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

fn parse_host(text: &str) -> Option<Box<str>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // `1.2.3` or `1.2.3.4` without its port is an address that something mangled, never a name.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if text.len() > MAX_HOST || numeric || text.parse::<IpAddr>().is_ok() || !text.split('.').all(label) {
        return None;
    }
    Some(text.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests;
