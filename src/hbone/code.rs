//! HTTP/2 error codes: why a stream was reset, or a tunnel ended.

use std::fmt;

/// An error code of RST_STREAM or GOAWAY (RFC 9113, 7). A code that nobody defined is kept as it came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResetReason(pub u32);

/// Value, name and meaning of each code, in the order of their values.
const CODES: [(&str, &str); 14] = [
    ("NO_ERROR", "no error"),
    ("PROTOCOL_ERROR", "a violation of the protocol"),
    ("INTERNAL_ERROR", "an error inside the sender"),
    ("FLOW_CONTROL_ERROR", "more bytes than the window allows"),
    ("SETTINGS_TIMEOUT", "SETTINGS were not acknowledged in time"),
    ("STREAM_CLOSED", "a frame for a stream that had ended"),
    ("FRAME_SIZE_ERROR", "a frame of a size that is not allowed"),
    ("REFUSED_STREAM", "the stream was refused before anything was done"),
    ("CANCEL", "the stream is no longer wanted"),
    ("COMPRESSION_ERROR", "headers that cannot be decoded"),
    ("CONNECT_ERROR", "the connection behind the stream was reset"),
    ("ENHANCE_YOUR_CALM", "excessive load"),
    ("INADEQUATE_SECURITY", "TLS below what is required"),
    ("HTTP_1_1_REQUIRED", "HTTP/1.1 is required"),
];

#[expect(missing_docs, reason = "the names are RFC 9113's, and the table above says what each means")]
impl ResetReason {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const CONNECT_ERROR: Self = Self(10);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

impl fmt::Debug for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODES.get(self.0 as usize) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "code {:#x}", self.0),
        }
    }
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODES.get(self.0 as usize) {
            Some((_, meaning)) => f.write_str(meaning),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}
