//! The protocol without IO: rules one by one, bounds, and two ends wired together.

mod bounds;
mod cuts;
mod ends;
mod heads;
mod rules;
mod wired;

use super::*;
use crate::frame::{HEADER, PREFACE};
use crate::head;
use crate::outbox::tests::{Reader, outbox};

/// One end, with what it writes.
pub(crate) struct End {
    pub(crate) mux: Mux,
    pub(crate) out: Outbox,
    reader: Reader,
}

/// A frame as its peer sees it.
type Frame = (Head, Vec<u8>);

impl End {
    /// Before it has heard anything. Its own greeting waits in `out`.
    fn new(role: Role, config: &Config) -> Self {
        let mut end = Self { mux: Mux::new(role, config), out: outbox(), reader: Reader::new() };
        end.mux.begin(config, &mut end.out);
        end
    }

    /// After both greetings.
    fn greeted(role: Role, config: &Config) -> Self {
        let mut end = Self::new(role, config);
        if role == Role::Server {
            end.receive(PREFACE).unwrap();
        }
        end.receive(&frame::settings(&[])).unwrap();
        end.output();
        end
    }

    /// Takes bytes of the peer, and keeps those of streams as a link does.
    fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let Some((id, now)) = self.mux.receive(&mut bytes, &mut self.out)? {
            match self.mux.stream(id) {
                Some(entry) => entry.inbox.push(now),
                None => self.mux.taken(id, now.len(), &mut self.out),
            }
        }
        Ok(())
    }

    /// What it has written since it was last asked.
    fn output(&mut self) -> Vec<u8> {
        self.reader.data(&mut self.out)
    }

    fn frames(&mut self) -> Vec<Frame> {
        frames(&self.output())
    }

    /// Opens a stream at a client.
    fn open(&mut self) -> u32 {
        self.mux.request(&head::request("10.0.0.1:80", &http::HeaderMap::new()), &mut self.out).unwrap()
    }
}

/// For tests of what stands above: whether the peer may send more than half the connection's window, as it always may.
pub(crate) fn window_is_whole(mux: &Mux) -> bool {
    mux.receive > mux.window / 2 && mux.receive <= mux.window.max(INITIAL_WINDOW)
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    bytes = bytes.strip_prefix(&PREFACE[..]).unwrap_or(bytes);
    while let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() {
        let head = Head::parse(head);
        let (payload, rest) = rest.split_at(head.len as usize);
        frames.push((head, payload.to_vec()));
        bytes = rest;
    }
    frames
}

fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = Head { len: payload.len() as u32, kind, flags, stream };
    [&head.bytes()[..], payload].concat()
}

fn data(stream: u32, len: usize, flags: u8) -> Vec<u8> {
    raw(kind::DATA, flags, stream, &vec![7; len])
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

/// The block of an honest request.
fn asks() -> Vec<u8> {
    block(&[(":method", "CONNECT"), (":authority", "10.0.0.1:80")])
}

fn headers(stream: u32, block: &[u8], flags: u8) -> Vec<u8> {
    raw(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

/// An honest request.
fn connect(stream: u32) -> Vec<u8> {
    headers(stream, &asks(), 0)
}

/// An honest answer.
fn answered(stream: u32) -> Vec<u8> {
    headers(stream, &block(&[(":status", "200")]), 0)
}

#[test]
fn small_frames_that_nobody_reads_cost_what_they_weigh() {
    let mut end = End::greeted(Role::Server, &Config::default());
    end.receive(&connect(1)).unwrap();
    let frame = data(1, 1, 0);
    for _ in 0..2000 {
        end.receive(&frame.repeat(100)).unwrap();
    }
    let inbox = &mut end.mux.stream(1).unwrap().inbox;
    assert_eq!(inbox.len(), 200_000);
    let pieces: Vec<usize> = std::iter::from_fn(|| inbox.pop()).map(|piece| piece.len()).collect();
    assert!(pieces.len() < 20, "{pieces:?}");
    assert_eq!(pieces.iter().sum::<usize>(), 200_000);
}
