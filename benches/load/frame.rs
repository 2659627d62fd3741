//! What goes over the wire: requests of 64 bytes, replies of 1 KiB, and totals that show whether bulk bytes were lost.

/// Bytes of a request.
pub(super) const REQUEST: usize = 64;
/// Bytes of a reply.
pub(super) const REPLY: usize = 1024;
/// Bytes of a total: a big-endian number.
pub(super) const TOTAL: usize = 8;
/// Bulk bytes handed to one system call.
pub(super) const CHUNK: usize = 256 * 1024;

/// A request of this one byte is answered with the same byte.
pub(super) const PING: u8 = b'1';

/// The first thing on each connection, and the only thing a client sends besides bulk bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Reply and wait for the next request.
    Reply,
    /// Reply and close.
    ReplyAndClose,
    /// Take all bytes up to the end, answer with how many they were, and close.
    Sink,
    /// Send bytes until the client ends its half but at most so many, then how many they were, and close.
    Source {
        /// Bytes.
        most: u64,
    },
}

impl Request {
    pub(super) fn encode(self) -> [u8; REQUEST] {
        let mut frame = [b'.'; REQUEST];
        let (letter, most) = match self {
            Self::Reply => (b'R', 0),
            Self::ReplyAndClose => (b'C', 0),
            Self::Sink => (b'U', 0),
            Self::Source { most } => (b'D', most),
        };
        frame[0] = letter;
        frame[1..9].copy_from_slice(&u64::to_be_bytes(most));
        frame[REQUEST - 4..].copy_from_slice(b"\r\n\r\n");
        frame
    }

    /// `None` for anything that [`Request::encode`] does not produce.
    pub(super) fn decode(frame: &[u8; REQUEST]) -> Option<Self> {
        let (&letter, rest) = frame.split_first()?;
        let (most, _) = rest.split_first_chunk()?;
        let request = match letter {
            b'R' => Self::Reply,
            b'C' => Self::ReplyAndClose,
            b'U' => Self::Sink,
            b'D' => Self::Source { most: u64::from_be_bytes(*most) },
            _ => return None,
        };
        (request.encode() == *frame).then_some(request)
    }
}
