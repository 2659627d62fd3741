//! Doors for fuzz targets to what reads a peer's bytes. Each returns normally whatever the bytes are, and panics where something that must
//! hold does not.

use std::collections::BTreeSet;

use rustls::ConnectionTrafficSecrets;

use crate::config::Config;
use crate::frame;
use crate::head::{self, Fields, Kind};
use crate::hpack;
use crate::mux::{Mux, Role};
use crate::outbox::Outbox;
use crate::tls::{MAX_PLAIN, Opener, RECORD_HEADER, RECORD_OVERHEAD, Sealer, content};

/// Small bounds are reached by short inputs.
fn config() -> Config {
    Config {
        client_streams: 4,
        server_streams: 4,
        stream_window: 20_000,
        header_list: 500,
        ..Config::default()
    }
}

fn secrets() -> (u64, ConnectionTrafficSecrets) {
    let key = rustls::crypto::cipher::AeadKey::from([7; 32]);
    (0, ConnectionTrafficSecrets::Aes256Gcm { key, iv: [9; 12].into() })
}

/// Plays `bytes` to one end of a tunnel, behind the peer's greeting, in pieces of the sizes that `cuts` says, while the owners of its
/// streams do what owners do.
pub fn frames(client: bool, cuts: &[u8], bytes: &[u8]) {
    let (role, config) = (if client { Role::Client } else { Role::Server }, config());
    let Ok(sealer) = Sealer::new(secrets()) else { return };
    let mut end = End { role, mux: Mux::new(role, &config), out: Outbox::new(sealer), held: BTreeSet::new() };
    end.mux.begin(&config, &mut end.out);
    let preface = if client { &[][..] } else { &frame::PREFACE[..] };
    let greeting = [preface, &frame::settings(&[])].concat();
    assert!(end.receive(&greeting), "the greeting is honest");
    if client {
        (0..3).for_each(|_| end.request());
    }
    let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
    while !rest.is_empty() {
        let size = cuts.next().map_or(rest.len(), |cut| 1 + usize::from(*cut)).min(rest.len());
        let (piece, later) = rest.split_at(size);
        rest = later;
        if !end.receive(piece) {
            return;
        }
        end.own(size);
        end.bounds(&config);
    }
}

struct End {
    role: Role,
    mux: Mux,
    out: Outbox,
    /// Streams that have an owner.
    held: BTreeSet<u32>,
}

impl End {
    /// False: the connection is over.
    fn receive(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        loop {
            match self.mux.receive(&mut rest, &mut self.out) {
                Ok(None) => break,
                Ok(Some((id, now))) => {
                    assert!(!now.is_empty(), "a piece of nothing");
                    match self.mux.stream(id) {
                        Some(entry) => entry.inbox.push(now),
                        None => self.mux.taken(id, now.len(), &mut self.out),
                    }
                }
                Err(_) => return false,
            }
        }
        // Each frame of nine bytes leads to a few small ones at most, and a record around them.
        let output = self.out.pending();
        assert!(output <= 200 + 8 * bytes.len(), "{} bytes led to {output}", bytes.len());
        self.out.flush(|bytes| Ok(bytes.len())).is_ok_and(|all| all)
    }

    fn request(&mut self) {
        let block = head::request("10.0.0.1:80", &http::HeaderMap::new());
        self.held.extend(self.mux.request(&block, &mut self.out));
    }

    /// What the owners do, by a number that is as good as any.
    fn own(&mut self, n: usize) {
        while let Some(id) = self.mux.take_request() {
            assert!(self.held.insert(id), "stream {id} was asked for twice");
            if id % 4 == 1 {
                let block = head::answer(200, &http::HeaderMap::new());
                self.mux.answer(id, &block, n.is_multiple_of(5), &mut self.out);
            }
        }
        let picked = self.held.iter().nth(n % 4).copied();
        if let Some(id) = picked {
            let bytes = self.mux.stream(id).and_then(|entry| entry.inbox.pop());
            if let Some(bytes) = bytes {
                self.mux.taken(id, bytes.len(), &mut self.out);
            }
            if let Some(window) = self.mux.window(id) {
                let send = [0; 64];
                let send = &send[..window.min(n % 64)];
                self.out.data(id, send);
                self.mux.sent(id, send.len());
            }
            match n % 16 {
                3 => self.mux.finish(id, &mut self.out),
                7 => self.mux.reset(id, crate::ResetReason::CANCEL, &mut self.out),
                11 => {
                    self.mux.release(id, &mut self.out);
                    self.held.remove(&id);
                }
                15 if self.role == Role::Server => self.mux.drain(&mut self.out),
                15 => self.request(),
                _ => {}
            }
        }
        let _ = self.out.flush(|bytes| Ok(bytes.len()));
    }

    fn bounds(&mut self, config: &Config) {
        for id in &self.held {
            let Some(entry) = self.mux.stream(*id) else { panic!("stream {id} is gone under its owner") };
            assert!(entry.inbox.len() <= config.stream_window as usize, "more than the window of a stream");
            assert!(entry.send <= frame::MAX_WINDOW, "a window past 2^31 - 1");
        }
        assert!(self.role == Role::Client || self.mux.open_streams() <= 4, "more streams than are allowed");
    }
}

/// Decodes `blocks` one after the other. What makes a request or an answer is written again, and understood alike.
pub fn hpack<'a>(max_table: usize, blocks: impl Iterator<Item = &'a [u8]>) {
    const LIMIT: usize = 16 << 10;
    let mut decoder = hpack::Decoder::new(max_table);
    for block in blocks {
        let Ok(fields) = Fields::decode(&mut decoder, block, LIMIT) else { return };
        if fields.too_large() {
            continue;
        }
        let written = match (&fields.authority, fields.status) {
            (Some(authority), _)
                if fields.valid(Kind::Request) && fields.method.as_deref() == Some("CONNECT") =>
            {
                head::request(authority, &fields.headers)
            }
            (_, Some(status)) if fields.valid(Kind::Answer) && fields.authority.is_none() => {
                head::answer(status, &fields.headers)
            }
            _ => continue,
        };
        let again = Fields::decode(&mut hpack::Decoder::new(0), &written, LIMIT);
        let Ok(again) = again else { panic!("{fields:?} was written as no block") };
        let seen = |fields: &Fields| (fields.authority.clone(), fields.status, fields.headers.clone());
        assert_eq!(seen(&again), seen(&fields));
    }
}

/// Opens `bytes` as records of a peer that has no key, and `inner` as a record that the peer sealed.
pub fn records(bytes: &[u8], inner: &[u8]) {
    let (Ok(mut sealer), Ok(mut opener)) = (Sealer::new(secrets()), Opener::new(secrets())) else { return };
    let mut copy = bytes.to_vec();
    let mut rest = &mut copy[..];
    while let Ok(Some(length)) = Opener::length(rest) {
        assert!(length <= MAX_PLAIN + 256 + RECORD_HEADER);
        if length > rest.len() {
            break;
        }
        let (record, after) = rest.split_at_mut(length);
        assert!(opener.open(record).is_err(), "a record was opened that nobody has sealed");
        rest = after;
    }
    // A record's type is its last byte that is not zero (RFC 8446, 5.2).
    let Some((kind, plain)) = inner.split_last().filter(|(_, plain)| plain.len() <= MAX_PLAIN) else {
        return;
    };
    let Ok(mut opener) = Opener::new(secrets()) else { return };
    let mut record = vec![0; plain.len() + RECORD_OVERHEAD];
    record[RECORD_HEADER..RECORD_HEADER + plain.len()].copy_from_slice(plain);
    assert!(sealer.seal(&mut record, *kind).is_ok());
    assert_eq!(record[0], content::DATA);
    let expected = inner.iter().rposition(|byte| *byte != 0).map(|end| (inner[end], &inner[..end]));
    match (opener.open(&mut record), expected) {
        (Ok(opened), Some(expected)) => assert_eq!(opened, expected),
        (Err(_), None) => {}
        (opened, _) => panic!("{opened:?} of {inner:?}"),
    }
}
