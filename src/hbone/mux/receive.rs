//! What comes from the peer: frames out of bytes, and what each of them does.
//!
//! DATA is handed on as it arrives, however the frame was cut into records; other frames are gathered, up to a bound.

use super::{DRAIN_PING, Drain, Goaway, Mux, Reset, Role, Violation, grown};
use crate::code::ResetReason;
use crate::frame::{self, HEADER, Head, MAX_WINDOW, PREFACE, flag, kind, setting};
use crate::head::{Fields, Kind};
use crate::outbox::Outbox;

/// Longest header block that is gathered, in bytes. Up to it a list that is too large is refused, and the tunnel lives.
const MAX_BLOCK: usize = 64 << 10;
/// Most SETTINGS of one frame that are read, in bytes. There are a dozen known ones.
const MAX_SETTINGS: usize = 6 * 128;

/// Where in the stream of bytes the parser is.
#[derive(Debug)]
pub(super) struct Parser {
    state: State,
    /// A header block that is not whole.
    block: Option<Block>,
    /// SETTINGS are what a peer says first.
    greeted: bool,
}

#[derive(Debug)]
enum State {
    Preface(usize),
    Head([u8; HEADER], usize),
    Pad { stream: u32, len: u32, end: bool },
    Data { stream: u32, left: u32, padding: u32, end: bool },
    Gather(Head, Vec<u8>),
    Skip(u32),
}

impl State {
    /// Before a frame.
    const START: Self = Self::Head([0; HEADER], 0);
}

#[derive(Debug)]
struct Block {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
}

impl Parser {
    pub(super) fn new(role: Role) -> Self {
        let state = match role {
            Role::Client => State::START,
            Role::Server => State::Preface(0),
        };
        Self { state, block: None, greeted: false }
    }

    fn next(&mut self) {
        self.state = State::START;
    }
}

const fn violation<T>(code: ResetReason, text: &'static str) -> Result<T, Violation> {
    Err(Violation { code, text })
}

const PROTOCOL: ResetReason = ResetReason::PROTOCOL_ERROR;
const NOTHING: &str = "too many frames that carry nothing";
const NO_HEADERS: &str = "too many headers that mean nothing";

impl Mux {
    /// Reads on in `bytes`, until they are used up or there are bytes of a stream: these are returned, with the stream.
    ///
    /// # Errors
    /// The peer broke the protocol in a way that ends the connection (RFC 9113, 5.4.1).
    pub(crate) fn receive<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        out: &mut Outbox,
    ) -> Result<Option<(u32, &'a [u8])>, Violation> {
        while !bytes.is_empty() {
            match &mut self.parser.state {
                State::Preface(seen) => {
                    let now = take(bytes, PREFACE.len() - *seen);
                    if !PREFACE[*seen..].starts_with(now) {
                        return violation(PROTOCOL, "the client's preface is not that of HTTP/2");
                    }
                    *seen += now.len();
                    if *seen == PREFACE.len() {
                        self.parser.next();
                    }
                }
                State::Head(head, seen) => {
                    let now = take(bytes, HEADER - *seen);
                    head[*seen..*seen + now.len()].copy_from_slice(now);
                    *seen += now.len();
                    if *seen == HEADER {
                        let head = Head::parse(head);
                        self.begin_frame(head, out)?;
                    }
                }
                State::Pad { stream, len, end } => {
                    let padding = u32::from(take(bytes, 1)[0]);
                    let (stream, len, end) = (*stream, *len, *end);
                    if padding > len {
                        return violation(PROTOCOL, "padding is longer than its frame");
                    }
                    self.taken(stream, padding as usize + 1, out);
                    self.parser.state = State::Data { stream, left: len - padding, padding, end };
                    self.end_data();
                }
                State::Data { stream, left, .. } => {
                    let now = take(bytes, *left as usize);
                    *left -= now.len() as u32;
                    let stream = *stream;
                    self.end_data();
                    if !now.is_empty() {
                        return Ok(Some((stream, now)));
                    }
                }
                State::Gather(head, gathered) => {
                    gathered.extend_from_slice(take(bytes, head.len as usize - gathered.len()));
                    if gathered.len() == head.len as usize {
                        let (head, gathered) = (*head, std::mem::take(gathered));
                        self.parser.next();
                        self.whole(head, gathered, out)?;
                    }
                }
                State::Skip(left) => {
                    *left -= take(bytes, *left as usize).len() as u32;
                    if *left == 0 {
                        self.parser.next();
                    }
                }
            }
        }
        Ok(None)
    }

    /// A frame's header is there.
    fn begin_frame(&mut self, head: Head, out: &mut Outbox) -> Result<(), Violation> {
        if head.len > self.own.frame {
            return violation(ResetReason::FRAME_SIZE_ERROR, "a frame is larger than SETTINGS allow");
        }
        if !self.parser.greeted && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return violation(PROTOCOL, "the peer's first frame is not SETTINGS");
        }
        let in_block = self.parser.block.as_ref().map(|block| block.stream);
        match in_block {
            Some(stream) if head.kind != kind::CONTINUATION || head.stream != stream => {
                return violation(PROTOCOL, "a header block is interrupted by another frame");
            }
            None if head.kind == kind::CONTINUATION => {
                return violation(PROTOCOL, "a CONTINUATION continues nothing");
            }
            _ => {}
        }
        if head.kind == kind::DATA {
            return self.begin_data(head, out);
        }
        let size = head.len as usize;
        let right_size = match head.kind {
            kind::PRIORITY => size == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => size == 4,
            kind::PING => size == 8,
            kind::GOAWAY => size >= 8,
            kind::SETTINGS => size.is_multiple_of(6) && (size == 0 || !head.has(flag::ACK)),
            _ => true,
        };
        if !right_size {
            return violation(
                ResetReason::FRAME_SIZE_ERROR,
                "a frame has a size that its type does not allow",
            );
        }
        let of_connection = matches!(head.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        let of_stream =
            matches!(head.kind, kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::PUSH_PROMISE);
        if (of_connection && head.stream != 0) || (of_stream && head.stream == 0) {
            return violation(PROTOCOL, "a frame is on a stream that its type does not allow");
        }
        let useless = !matches!(head.kind, kind::HEADERS | kind::CONTINUATION | kind::GOAWAY);
        if useless || (size == 0 && head.kind == kind::CONTINUATION) {
            self.calm.idle(NOTHING)?;
        }
        match head.kind {
            kind::PUSH_PROMISE => return violation(PROTOCOL, "nobody may push here"),
            // Deprecated, and of other protocols: allowed, and without meaning here (RFC 9113, 5.3 and 4.1).
            kind::PRIORITY | kind::CONTINUATION.. if head.kind != kind::CONTINUATION => {
                self.parser.state = State::Skip(head.len);
            }
            kind::SETTINGS if size > MAX_SETTINGS => {
                return violation(ResetReason::ENHANCE_YOUR_CALM, "too many SETTINGS in a frame");
            }
            kind::HEADERS | kind::CONTINUATION => {
                let before = self.parser.block.as_ref().map_or(0, |block| block.bytes.len());
                if before + size > MAX_BLOCK {
                    return violation(ResetReason::ENHANCE_YOUR_CALM, "a header block is far too large");
                }
                self.parser.state = State::Gather(head, Vec::new());
            }
            // What follows the first fields is text for people.
            kind::GOAWAY if size > 8 + MAX_SETTINGS => {
                return violation(ResetReason::ENHANCE_YOUR_CALM, "a GOAWAY is far too large");
            }
            _ => self.parser.state = State::Gather(head, Vec::new()),
        }
        if head.len == 0 {
            let state = std::mem::replace(&mut self.parser.state, State::START);
            if let State::Gather(head, gathered) = state {
                self.whole(head, gathered, out)?;
            }
        }
        Ok(())
    }

    fn begin_data(&mut self, head: Head, out: &mut Outbox) -> Result<(), Violation> {
        let Head { len, stream, .. } = head;
        if stream == 0 || self.never_opened(stream) {
            return violation(PROTOCOL, "DATA is on a stream that was not opened");
        }
        let size = i64::from(len);
        if size > self.receive {
            return violation(
                ResetReason::FLOW_CONTROL_ERROR,
                "the peer sent more than the connection's window",
            );
        }
        self.arrived(len, out);
        if len > 0 {
            self.calm.progress();
        } else if !head.has(flag::END_STREAM) {
            self.calm.idle(NOTHING)?;
        }
        let live = match self.streams.get_mut(&stream) {
            Some(entry) if entry.reset.is_some() => false,
            Some(entry) if entry.received_end || !entry.headed => {
                self.reset(stream, ResetReason::STREAM_CLOSED, out);
                false
            }
            // An empty frame needs no window, not even where SETTINGS made it negative (RFC 9113, 6.9.1).
            Some(entry) if size > entry.receive.max(0) => {
                self.reset(stream, ResetReason::FLOW_CONTROL_ERROR, out);
                false
            }
            Some(entry) => {
                entry.receive -= size;
                true
            }
            // It was reset, and this was on its way.
            None => false,
        };
        let end = head.has(flag::END_STREAM);
        self.parser.state = if !live {
            State::Skip(len)
        } else if !head.has(flag::PADDED) {
            State::Data { stream, left: len, padding: 0, end }
        } else if len == 0 {
            return violation(ResetReason::FRAME_SIZE_ERROR, "a padded frame has no room for its padding");
        } else {
            State::Pad { stream, len: len - 1, end }
        };
        match self.parser.state {
            State::Skip(0) => self.parser.next(),
            State::Data { .. } => self.end_data(),
            _ => {}
        }
        Ok(())
    }

    /// Ends a DATA frame whose bytes have all come.
    fn end_data(&mut self) {
        let State::Data { stream, left: 0, padding, end } = self.parser.state else { return };
        self.parser.state = if padding > 0 { State::Skip(padding) } else { State::START };
        if end {
            self.received_end(stream);
        }
    }

    fn received_end(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.received_end = true;
            entry.wake();
        }
        self.settle(stream);
    }

    /// A frame other than DATA is there as a whole.
    fn whole(&mut self, head: Head, bytes: Vec<u8>, out: &mut Outbox) -> Result<(), Violation> {
        match head.kind {
            kind::HEADERS => self.headers_frame(head, bytes, out),
            kind::CONTINUATION => {
                let Some(mut block) = self.parser.block.take() else { return Ok(()) };
                block.bytes.extend_from_slice(&bytes);
                self.block_part(block, head.has(flag::END_HEADERS), out)
            }
            kind::RST_STREAM => self.rst_stream(head.stream, ResetReason(number(&bytes)), out),
            kind::SETTINGS => self.settings_frame(head, &bytes, out),
            kind::PING => self.ping_frame(head, &bytes, out),
            kind::GOAWAY => {
                let last = number(&bytes) & 0x7fff_ffff;
                self.goaway_frame(Goaway { last, code: ResetReason(number(&bytes[4..])) });
                Ok(())
            }
            kind::WINDOW_UPDATE => self.window_update(head.stream, number(&bytes) & 0x7fff_ffff, out),
            _ => Ok(()),
        }
    }

    fn headers_frame(&mut self, head: Head, mut bytes: Vec<u8>, out: &mut Outbox) -> Result<(), Violation> {
        let mut start = 0;
        let mut end = bytes.len();
        if head.has(flag::PADDED) {
            let Some(padding) = bytes.first() else {
                return violation(
                    ResetReason::FRAME_SIZE_ERROR,
                    "a padded frame has no room for its padding",
                );
            };
            start = 1;
            end = end.saturating_sub((*padding).into());
        }
        if head.has(flag::PRIORITY) {
            start += 5;
        }
        if start > end {
            return violation(PROTOCOL, "padding is longer than its frame");
        }
        bytes.truncate(end);
        bytes.drain(..start);
        let block = Block { stream: head.stream, end: head.has(flag::END_STREAM), bytes };
        self.block_part(block, head.has(flag::END_HEADERS), out)
    }

    fn block_part(&mut self, block: Block, whole: bool, out: &mut Outbox) -> Result<(), Violation> {
        if !whole {
            self.parser.block = Some(block);
            return Ok(());
        }
        // Decoded in any case: each block changes the decoder's table.
        let Ok(fields) = Fields::decode(&mut self.decoder, &block.bytes, self.header_list) else {
            return violation(ResetReason::COMPRESSION_ERROR, "headers that cannot be decoded");
        };
        let id = block.stream;
        if self.streams.contains_key(&id) {
            self.later_headers(id, fields, block.end, out)
        } else if self.role == Role::Server && id > self.highest {
            self.new_request(id, fields, block.end, out)
        } else if self.never_opened(id) {
            violation(PROTOCOL, "HEADERS are on a stream that was not opened")
        } else {
            // For a stream that was reset and is forgotten.
            self.calm.idle(NO_HEADERS)
        }
    }

    fn new_request(&mut self, id: u32, fields: Fields, end: bool, out: &mut Outbox) -> Result<(), Violation> {
        if id.is_multiple_of(2) {
            return violation(PROTOCOL, "a client's streams have odd numbers");
        }
        self.highest = id;
        if matches!(self.drain, Drain::Final(_)) || self.open >= self.own.streams as usize {
            out.push(&frame::rst_stream(id, ResetReason::REFUSED_STREAM));
            return self.calm.given_up();
        }
        self.open_stream(id);
        let Some(entry) = self.streams.get_mut(&id) else { return Ok(()) };
        entry.headed = true;
        if fields.too_large() {
            let block = crate::head::answer(431, &http::HeaderMap::new());
            self.headers(id, &block, true, out);
            self.finished(id);
            self.release(id, out);
        } else if !fields.valid(Kind::Request) {
            self.reset(id, PROTOCOL, out);
            self.release(id, out);
            return self.calm.given_up();
        } else {
            entry.head = Some(fields);
            self.requests.push_back(id);
            if end {
                self.received_end(id);
            }
        }
        Ok(())
    }

    /// An answer, or trailers.
    fn later_headers(
        &mut self,
        id: u32,
        fields: Fields,
        end: bool,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        let Some(entry) = self.streams.get_mut(&id).filter(|entry| entry.reset.is_none()) else {
            return self.calm.idle(NO_HEADERS);
        };
        let kind = if entry.headed { Kind::Trailers } else { Kind::Answer };
        let informational = kind == Kind::Answer && fields.status.is_some_and(|status| status < 200);
        let ends_wrongly = match kind {
            Kind::Trailers => !end || entry.received_end,
            _ => informational && end,
        };
        if fields.too_large() || !fields.valid(kind) || ends_wrongly {
            self.reset(id, PROTOCOL, out);
            return Ok(());
        }
        if kind == Kind::Answer && !informational {
            entry.headed = true;
            entry.head = Some(fields);
            entry.wake();
            self.calm.progress();
        }
        if end {
            self.received_end(id);
        }
        if informational { self.calm.idle(NO_HEADERS) } else { Ok(()) }
    }

    fn rst_stream(&mut self, id: u32, code: ResetReason, out: &mut Outbox) -> Result<(), Violation> {
        if self.never_opened(id) {
            return violation(PROTOCOL, "a stream is reset that was not opened");
        }
        self.reset_by_peer(id, code);
        let unseen = self.requests.len();
        self.requests.retain(|request| *request != id);
        if self.requests.len() < unseen {
            self.release(id, out);
            return self.calm.given_up();
        }
        Ok(())
    }

    /// Of a stream that has ended both ways nothing is left to reset: what waits for its reader stays.
    fn reset_by_peer(&mut self, id: u32, code: ResetReason) {
        if let Some(entry) = self.streams.get_mut(&id).filter(|entry| !entry.closed()) {
            entry.reset = Some(Reset::Peer(code));
            entry.wake();
        }
        self.settle(id);
    }

    fn settings_frame(&mut self, head: Head, bytes: &[u8], out: &mut Outbox) -> Result<(), Violation> {
        if head.has(flag::ACK) {
            return Ok(());
        }
        for pair in bytes.chunks_exact(6) {
            let id = u16::from_be_bytes([pair[0], pair[1]]);
            self.setting(id, number(&pair[2..]))?;
        }
        self.parser.greeted = true;
        self.settled = true;
        out.push(&frame::settings_ack());
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), Violation> {
        match id {
            setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                violation(PROTOCOL, "ENABLE_PUSH has a value that is not allowed")
            }
            setting::MAX_CONCURRENT_STREAMS => {
                self.peer.streams = value;
                Ok(())
            }
            setting::INITIAL_WINDOW_SIZE => {
                let window = i64::from(value);
                let change = window - self.peer.window;
                let fits = self.streams.values().all(|entry| entry.send + change <= MAX_WINDOW);
                if window > MAX_WINDOW || !fits {
                    return violation(ResetReason::FLOW_CONTROL_ERROR, "SETTINGS make a window too large");
                }
                self.peer.window = window;
                for entry in self.streams.values_mut() {
                    entry.send += change;
                    entry.wake();
                }
                Ok(())
            }
            setting::MAX_FRAME_SIZE if !(frame::MIN_MAX_FRAME..1 << 24).contains(&value) => {
                violation(PROTOCOL, "MAX_FRAME_SIZE has a value that is not allowed")
            }
            setting::MAX_FRAME_SIZE => {
                self.peer.frame = value;
                Ok(())
            }
            // Our blocks use no table and are short; what else there may be is not known here (RFC 9113, 6.5.2).
            _ => Ok(()),
        }
    }

    fn ping_frame(&mut self, head: Head, bytes: &[u8], out: &mut Outbox) -> Result<(), Violation> {
        let Ok(payload) = <[u8; 8]>::try_from(bytes) else { return Ok(()) };
        if !head.has(flag::ACK) {
            out.push(&frame::ping(true, payload));
        } else if payload == DRAIN_PING && self.drain == Drain::Said {
            self.drain = Drain::Final(self.highest);
            out.push(&frame::goaway(self.highest, ResetReason::NO_ERROR));
        } else if self.ping == Some(payload) {
            self.ping = None;
        }
        Ok(())
    }

    fn goaway_frame(&mut self, goaway: Goaway) {
        self.goaway = Some(goaway);
        if self.role == Role::Client {
            // The peer did not act on these: each may be asked again elsewhere.
            let refused: Vec<u32> =
                self.streams.range(goaway.last.saturating_add(1)..).map(|(id, _)| *id).collect();
            refused.into_iter().for_each(|id| self.reset_by_peer(id, ResetReason::REFUSED_STREAM));
        }
    }

    fn window_update(&mut self, id: u32, bytes: u32, out: &mut Outbox) -> Result<(), Violation> {
        let by = i64::from(bytes);
        if id == 0 && by == 0 {
            return violation(PROTOCOL, "a WINDOW_UPDATE of the connection is of nothing");
        } else if id == 0 {
            let Some(window) = grown(self.send, by) else {
                return violation(
                    ResetReason::FLOW_CONTROL_ERROR,
                    "a WINDOW_UPDATE of the connection is out of range",
                );
            };
            self.send = window;
            self.wake_waiting();
        } else if self.never_opened(id) {
            return violation(PROTOCOL, "a WINDOW_UPDATE is for a stream that was not opened");
        } else if let Some(entry) = self.streams.get_mut(&id) {
            match grown(entry.send, by) {
                Some(_) if by == 0 => self.reset(id, PROTOCOL, out),
                Some(window) => {
                    entry.send = window;
                    entry.wake();
                }
                None => self.reset(id, ResetReason::FLOW_CONTROL_ERROR, out),
            }
        }
        Ok(())
    }

    /// Whether no side has opened that stream yet (RFC 9113, 5.1: idle).
    fn never_opened(&self, id: u32) -> bool {
        match self.role {
            Role::Client => id.is_multiple_of(2) || id >= self.next,
            Role::Server => id.is_multiple_of(2) || id > self.highest,
        }
    }
}

/// The first `n` of `bytes`, or all, which are then gone from them.
fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (now, later) = bytes.split_at(n.min(bytes.len()));
    *bytes = later;
    now
}

/// The first four bytes, most significant first.
fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
