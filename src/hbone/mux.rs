//! HTTP/2 of a tunnel (RFC 9113) without IO: streams, windows, SETTINGS, GOAWAY. Bytes come in by [`Mux::receive`], frames
//! go out into an [`Outbox`]. It knows what HBONE needs: CONNECT streams, no push, no priorities.
//!
//! A frame for a stream that has ended is not answered: after a reset the peer's bytes may still be on their way, for as long
//! as they like. What a peer can make us do for nothing is bounded by [`calm::Calm`].

mod calm;
mod entry;
mod receive;

use std::collections::{BTreeMap, VecDeque};

use crate::code::ResetReason;
use crate::config::Config;
use crate::frame::{self, Head, INITIAL_WINDOW, MAX_WINDOW, MIN_MAX_FRAME, flag, kind, setting};
use crate::hpack;
use crate::outbox::Outbox;

pub(crate) use entry::{Entry, Inbox, Reset};

/// Which end of the tunnel this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// The tunnel is over, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) code: ResetReason,
    pub(crate) text: &'static str,
}

/// The peer's GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Goaway {
    /// Streams above it were not acted on.
    last: u32,
    pub(crate) code: ResetReason,
}

#[derive(Debug)]
pub(crate) struct Mux {
    role: Role,
    streams: BTreeMap<u32, Entry>,
    /// Streams that count as open.
    open: usize,
    /// The client's next stream.
    next: u32,
    /// The highest stream that the peer opened.
    highest: u32,
    /// Requests that nobody has taken.
    requests: VecDeque<u32>,
    /// Streams that wait for the connection window or for room in the tunnel, in their order.
    waiting: VecDeque<u32>,
    own: Limits,
    peer: Limits,
    /// Largest header list that is kept, in bytes.
    header_list: usize,
    /// The peer's SETTINGS are there.
    settled: bool,
    /// What the peer lets us send on all streams together.
    send: i64,
    /// What the peer may still send on all streams together.
    receive: i64,
    /// What the peer may send before the first of it has arrived.
    window: i64,
    parser: receive::Parser,
    decoder: hpack::Decoder,
    /// The next header block is this side's first.
    first_block: bool,
    calm: calm::Calm,
    /// A PING that has no answer.
    ping: Option<[u8; 8]>,
    drain: Drain,
    goaway: Option<Goaway>,
}

/// How far a server is with saying that it takes no more streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// Said; what the client sent before it heard that is still served, until it answers a PING.
    Said,
    /// No more are taken above this one.
    Final(u32),
}

/// What SETTINGS say, of one side.
#[derive(Clone, Copy, Debug)]
struct Limits {
    window: i64,
    frame: u32,
    streams: u32,
}

/// Marks the PING of a drain.
const DRAIN_PING: [u8; 8] = *b"draining";
const KEEPALIVE_PING: [u8; 8] = *b"aquifer?";

impl Mux {
    pub(crate) fn new(role: Role, config: &Config) -> Self {
        let streams = match role {
            Role::Client => config.client_streams,
            Role::Server => config.server_streams,
        };
        Self {
            role,
            streams: BTreeMap::new(),
            open: 0,
            next: 1,
            highest: 0,
            requests: VecDeque::new(),
            waiting: VecDeque::new(),
            own: Limits { window: config.stream_window.into(), frame: config.frame, streams },
            header_list: config.header_list as usize,
            peer: Limits { window: INITIAL_WINDOW, frame: MIN_MAX_FRAME, streams: u32::MAX },
            settled: false,
            send: INITIAL_WINDOW,
            receive: INITIAL_WINDOW,
            window: config.connection_window.into(),
            parser: receive::Parser::new(role),
            decoder: hpack::Decoder::new(4096),
            first_block: true,
            calm: calm::Calm::default(),
            ping: None,
            drain: Drain::No,
            goaway: None,
        }
    }

    /// What each side says first.
    pub(crate) fn begin(&mut self, config: &Config, out: &mut Outbox) {
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, config.stream_window),
            (setting::MAX_FRAME_SIZE, config.frame),
            (setting::MAX_HEADER_LIST_SIZE, config.header_list),
        ];
        match self.role {
            Role::Client => {
                out.push(frame::PREFACE);
                settings.push((setting::ENABLE_PUSH, 0));
            }
            Role::Server => settings.push((setting::MAX_CONCURRENT_STREAMS, config.server_streams)),
        }
        out.push(&frame::settings(&settings));
        self.arrived(0, out);
    }

    /// The peer's SETTINGS are there: how many streams it takes is known.
    pub(crate) fn ready(&self) -> bool {
        self.settled
    }

    /// How many streams the peer takes at once.
    pub(crate) fn peer_streams(&self) -> u32 {
        self.peer.streams
    }

    pub(crate) fn goaway(&self) -> Option<Goaway> {
        self.goaway
    }

    /// Streams that count as open.
    pub(crate) fn open_streams(&self) -> usize {
        self.open
    }

    pub(crate) fn stream(&mut self, id: u32) -> Option<&mut Entry> {
        self.streams.get_mut(&id)
    }

    /// Opens a stream with a request; `None` when the connection takes no more.
    pub(crate) fn request(&mut self, block: &[u8], out: &mut Outbox) -> Option<u32> {
        if self.goaway.is_some() || self.next > 0x7fff_ffff {
            return None;
        }
        let id = self.next;
        self.next += 2;
        self.open_stream(id);
        self.headers(id, block, false, out);
        Some(id)
    }

    /// The next request that nobody has taken, with its stream.
    pub(crate) fn take_request(&mut self) -> Option<u32> {
        self.requests.pop_front()
    }

    /// Answers a request. False: it is over, and nothing was sent.
    pub(crate) fn answer(&mut self, id: u32, block: &[u8], end: bool, out: &mut Outbox) -> bool {
        if self.streams.get(&id).is_none_or(Entry::closed) {
            return false;
        }
        self.calm.progress();
        self.headers(id, block, end, out);
        if end {
            self.finished(id);
        }
        true
    }

    /// Ends this side's direction.
    pub(crate) fn finish(&mut self, id: u32, out: &mut Outbox) {
        if self.streams.get(&id).is_some_and(|entry| !entry.sent_end && entry.reset.is_none()) {
            out.push(&Head { len: 0, kind: kind::DATA, flags: flag::END_STREAM, stream: id }.bytes());
            self.finished(id);
        }
    }

    /// Resets a stream, unless it is over.
    pub(crate) fn reset(&mut self, id: u32, code: ResetReason, out: &mut Outbox) {
        let Some(entry) = self.streams.get_mut(&id).filter(|entry| !entry.closed()) else { return };
        entry.reset = Some(Reset::Own);
        entry.wake();
        out.push(&frame::rst_stream(id, code));
        self.settle(id);
    }

    /// The stream's owner is gone: what is not over is reset, and what nobody will read makes room for others.
    pub(crate) fn release(&mut self, id: u32, out: &mut Outbox) {
        // A server that has answered in full needs no more of the request (RFC 9113, 8.1).
        let answered = self.streams.get(&id).is_some_and(|entry| entry.sent_end && self.role == Role::Server);
        self.reset(id, if answered { ResetReason::NO_ERROR } else { ResetReason::CANCEL }, out);
        let Some(entry) = self.streams.remove(&id) else { return };
        self.requests.retain(|request| *request != id);
        if entry.waiting {
            self.waiting.retain(|waiting| *waiting != id);
        }
    }

    /// How much may be sent on a stream now: what both windows allow. `None`: nothing, ever.
    pub(crate) fn window(&self, id: u32) -> Option<usize> {
        let entry = self.streams.get(&id).filter(|entry| entry.reset.is_none() && !entry.sent_end)?;
        Some(usize::try_from(entry.send.min(self.send)).unwrap_or(0))
    }

    /// Bytes were sent, no more than [`Self::window`] said.
    pub(crate) fn sent(&mut self, id: u32, bytes: usize) {
        self.send -= bytes as i64;
        self.calm.sent(bytes);
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.send -= bytes as i64;
        }
    }

    /// Has the stream woken, in its turn, when the tunnel has room.
    pub(crate) fn wait(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id).filter(|entry| !entry.waiting) {
            entry.waiting = true;
            self.waiting.push_back(id);
        }
    }

    /// Wakes all that wait, in their order.
    pub(crate) fn wake_waiting(&mut self) {
        while let Some(id) = self.waiting.pop_front() {
            if let Some(entry) = self.streams.get_mut(&id) {
                entry.waiting = false;
                entry.wake();
            }
        }
    }

    /// Wakes the owners of all streams: the tunnel is over.
    pub(crate) fn wake_all(&mut self) {
        self.streams.values().for_each(Entry::wake);
    }

    /// The reader took `bytes`: the peer may send as many more, and is told so when half a window is free.
    pub(crate) fn taken(&mut self, id: u32, bytes: usize, out: &mut Outbox) {
        let bytes = bytes as u32;
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.credit += bytes;
            if i64::from(entry.credit) >= self.own.window / 2 && !entry.received_end && entry.reset.is_none()
            {
                out.push(&frame::window_update(id, entry.credit));
                entry.receive += i64::from(entry.credit);
                entry.credit = 0;
            }
        }
    }

    /// Says that no more streams are taken, and serves those that come before the client has heard it.
    pub(crate) fn drain(&mut self, out: &mut Outbox) {
        if self.drain == Drain::No {
            self.drain = Drain::Said;
            out.push(&frame::goaway(0x7fff_ffff, ResetReason::NO_ERROR));
            out.push(&frame::ping(false, DRAIN_PING));
        }
    }

    /// A server that drains, and has nothing left to serve.
    pub(crate) fn drained(&self) -> bool {
        matches!(self.drain, Drain::Final(_)) && self.streams.is_empty()
    }

    /// Says goodbye.
    pub(crate) fn leave(&mut self, code: ResetReason, out: &mut Outbox) {
        // Never more than was said before (RFC 9113, 6.8).
        let last = if let Drain::Final(last) = self.drain { last } else { self.highest };
        out.push(&frame::goaway(last, code));
    }

    /// Asks the peer whether it lives.
    pub(crate) fn send_ping(&mut self, out: &mut Outbox) {
        self.ping = Some(KEEPALIVE_PING);
        out.push(&frame::ping(false, KEEPALIVE_PING));
    }

    /// Something came outside of frames that carries nothing for a stream.
    ///
    /// # Errors
    /// It was one too many.
    pub(crate) fn idle(&mut self) -> Result<(), Violation> {
        self.calm.idle("too many TLS messages that carry nothing")
    }

    /// A pause between PINGs has passed.
    pub(crate) fn rest(&mut self) {
        self.calm.rest();
    }

    /// Whether the last PING has no answer.
    pub(crate) fn ping_unanswered(&self) -> bool {
        self.ping.is_some()
    }

    /// Bytes of any stream arrived: the peer may send as many more on the connection. That they wait for their reader holds
    /// up their own stream only.
    fn arrived(&mut self, bytes: u32, out: &mut Outbox) {
        self.receive -= i64::from(bytes);
        if self.receive <= self.window / 2 {
            let more = self.window - self.receive;
            out.push(&frame::window_update(0, more as u32));
            self.receive = self.window;
        }
    }

    fn open_stream(&mut self, id: u32) {
        self.streams.insert(id, Entry::new(self.peer.window, self.own.window));
        self.open += 1;
        self.calm.progress();
    }

    fn finished(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.sent_end = true;
        }
        self.settle(id);
    }

    /// Counts a stream as over, once, when it is.
    fn settle(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id).filter(|entry| entry.closed() && !entry.settled) {
            entry.settled = true;
            self.open -= 1;
        }
    }

    fn headers(&mut self, id: u32, block: &[u8], end: bool, out: &mut Outbox) {
        // The first block says that no dynamic table is used, whatever the peer's SETTINGS will allow (RFC 7541, 4.2).
        let mut first = Vec::new();
        let block = if std::mem::take(&mut self.first_block) {
            hpack::no_table(&mut first);
            first.extend_from_slice(block);
            &first
        } else {
            block
        };
        let mut frames = block.chunks(self.peer.frame as usize).peekable();
        let (mut kind, mut flags) = (kind::HEADERS, if end { flag::END_STREAM } else { 0 });
        while let Some(part) = frames.next() {
            if frames.peek().is_none() {
                flags |= flag::END_HEADERS;
            }
            out.push(&Head { len: part.len() as u32, kind, flags, stream: id }.bytes());
            out.push(part);
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }
}

fn grown(window: i64, by: i64) -> Option<i64> {
    Some(window + by).filter(|window| *window <= MAX_WINDOW)
}

#[cfg(test)]
pub(crate) mod tests;
