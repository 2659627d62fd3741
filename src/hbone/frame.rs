//! Frames of HTTP/2 (RFC 9113, 4 and 6): the header of nine bytes, and the frames that this side writes.

use crate::code::ResetReason;

/// Length of a frame's header.
pub(crate) const HEADER: usize = 9;
/// Largest payload that each peer takes, whatever its SETTINGS say (RFC 9113, 4.2).
pub(crate) const MIN_MAX_FRAME: u32 = 16_384;
/// Largest window (RFC 9113, 6.9.1).
pub(crate) const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Window of streams and of the connection before SETTINGS and WINDOW_UPDATE (RFC 9113, 6.9.2).
pub(crate) const INITIAL_WINDOW: i64 = 65_535;
/// What a client says first (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

pub(crate) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Identifiers of SETTINGS (RFC 9113, 6.5.2).
pub(crate) mod setting {
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Of the payload, in bytes; below 2^24.
    pub(crate) len: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// 0: the connection; below 2^31.
    pub(crate) stream: u32,
}

impl Head {
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Self {
        let [a, b, c, kind, flags, s @ ..] = *bytes;
        // The first bit of the stream is reserved, and ignored.
        let stream = u32::from_be_bytes(s) & 0x7fff_ffff;
        Self { len: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }

    pub(crate) fn bytes(self) -> [u8; HEADER] {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

fn with_payload<const N: usize, const M: usize>(
    kind: u8,
    flags: u8,
    stream: u32,
    payload: [u8; N],
) -> [u8; M] {
    let mut frame = [0; M];
    let (head, rest) = frame.split_at_mut(HEADER);
    head.copy_from_slice(&Head { len: N as u32, kind, flags, stream }.bytes());
    rest.copy_from_slice(&payload);
    frame
}

pub(crate) fn rst_stream(stream: u32, code: ResetReason) -> [u8; 13] {
    with_payload(kind::RST_STREAM, 0, stream, code.0.to_be_bytes())
}

pub(crate) fn window_update(stream: u32, bytes: u32) -> [u8; 13] {
    with_payload(kind::WINDOW_UPDATE, 0, stream, bytes.to_be_bytes())
}

pub(crate) fn ping(ack: bool, payload: [u8; 8]) -> [u8; 17] {
    with_payload(kind::PING, if ack { flag::ACK } else { 0 }, 0, payload)
}

pub(crate) fn goaway(last: u32, code: ResetReason) -> [u8; 17] {
    let payload = (u64::from(last) << 32) | u64::from(code.0);
    with_payload(kind::GOAWAY, 0, 0, payload.to_be_bytes())
}

pub(crate) fn settings_ack() -> [u8; 9] {
    Head { len: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.bytes()
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let len = (values.len() * 6) as u32;
    let mut frame = Head { len, kind: kind::SETTINGS, flags: 0, stream: 0 }.bytes().to_vec();
    for (id, value) in values {
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&value.to_be_bytes());
    }
    frame
}
