//! The headers of a request or an answer, between header blocks and the types of `http`.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::hpack;

/// Header lists cost each field this much on top of its name and value (RFC 9113, 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// A header list that was read, with what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) method: Option<Box<str>>,
    pub(crate) authority: Option<Box<str>>,
    pub(crate) status: Option<u16>,
    pub(crate) headers: HeaderMap,
    /// `:scheme` or `:path` was there.
    target: bool,
    regular: bool,
    size: usize,
    limit: usize,
    malformed: bool,
}

/// Which headers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Answer,
    Trailers,
}

impl Fields {
    /// Decodes a whole block. `limit` bounds what is kept of it, as a header list's size in RFC 9113, 6.5.2.
    pub(crate) fn decode(
        decoder: &mut hpack::Decoder,
        block: &[u8],
        limit: usize,
    ) -> Result<Self, hpack::Error> {
        let mut fields = Self { limit, ..Self::default() };
        decoder.decode(block, |name, value| fields.add(name, value))?;
        Ok(fields)
    }

    /// Larger than its limit; what is beyond was not kept.
    pub(crate) fn too_large(&self) -> bool {
        self.size > self.limit
    }

    /// Whether a peer may send it (RFC 9113, 8.2 and 8.3).
    pub(crate) fn valid(&self, kind: Kind) -> bool {
        let ok = match kind {
            // CONNECT has no target but its authority (RFC 9113, 8.5). Others are refused later, with a reason.
            Kind::Request => match self.method.as_deref() {
                Some("CONNECT") => self.authority.is_some() && !self.target && self.status.is_none(),
                Some(_) => self.status.is_none(),
                None => false,
            },
            Kind::Answer => self.status.is_some() && self.method.is_none() && !self.target,
            Kind::Trailers => self.status.is_none() && self.method.is_none() && !self.target,
        };
        ok && !self.malformed
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + FIELD_OVERHEAD;
        if self.too_large() {
            return;
        }
        if self.keep(name, value).is_none() {
            self.malformed = true;
        }
    }

    /// `None`: not allowed.
    fn keep(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if name.first() == Some(&b':') {
            // Pseudo-headers come first, and once each.
            let text = std::str::from_utf8(value).ok().filter(|_| !self.regular)?;
            return match name {
                b":method" => set(&mut self.method, text.into()),
                b":authority" => set(&mut self.authority, text.into()),
                b":status" => {
                    let digits = value.len() == 3 && value.iter().all(u8::is_ascii_digit);
                    set(&mut self.status, text.parse().ok().filter(|status| digits && *status >= 100)?)
                }
                b":scheme" | b":path" => {
                    self.target = true;
                    Some(())
                }
                _ => None,
            };
        }
        self.regular = true;
        let connection =
            [&b"connection"[..], b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];
        if name.iter().any(u8::is_ascii_uppercase) || connection.contains(&name) {
            return None;
        }
        let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        self.headers.try_append(name, value).ok().map(drop)
    }
}

fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// Writes the header block of an answer.
pub(crate) fn answer(status: u16, headers: &HeaderMap) -> Vec<u8> {
    block(&[(b":status", status.to_string().as_bytes())], headers)
}

/// Writes the header block of a CONNECT request.
pub(crate) fn request(authority: &str, headers: &HeaderMap) -> Vec<u8> {
    block(&[(b":method", b"CONNECT"), (b":authority", authority.as_bytes())], headers)
}

fn block(pseudo: &[(&[u8], &[u8])], headers: &HeaderMap) -> Vec<u8> {
    let headers = headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let mut block = Vec::with_capacity(256);
    for (name, value) in pseudo.iter().copied().chain(headers) {
        hpack::field(&mut block, name, value);
    }
    block
}
