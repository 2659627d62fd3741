//! Each rule of RFC 9113 that a peer may break, by frames made by hand. Where ours differs from `h2` 0.4 on purpose, the row
//! says so.

use super::*;

/// What a peer's frames lead to.
#[derive(Debug, PartialEq)]
pub(super) enum Leads {
    /// The end of the connection.
    Ends(ResetReason),
    /// Streams that this side resets, and the connection lives.
    Resets(Vec<(u32, ResetReason)>),
}

pub(super) use crate::code::ResetReason as Code;
pub(super) use Leads::Ends;
pub(super) use Role::{Client, Server};
pub(super) const PROTOCOL: Code = Code::PROTOCOL_ERROR;
pub(super) const SIZE: Code = Code::FRAME_SIZE_ERROR;
pub(super) const FLOW: Code = Code::FLOW_CONTROL_ERROR;
pub(super) const CALM: Code = Code::ENHANCE_YOUR_CALM;

pub(super) fn resets(id: u32, code: Code) -> Leads {
    Leads::Resets(vec![(id, code)])
}

pub(super) fn lives() -> Leads {
    Leads::Resets(Vec::new())
}

/// Small windows, which are quickly full.
pub(super) fn config() -> Config {
    Config { stream_window: 70_000, frame: 20_000, server_streams: 2, header_list: 1000, ..Config::default() }
}

/// Plays `before` without a fault, does `local`, and sees what `bytes` lead to.
pub(super) fn play(role: Role, before: &[u8], local: impl FnOnce(&mut End), bytes: &[u8]) -> Leads {
    let mut end = End::greeted(role, &config());
    if role == Client {
        assert_eq!((end.open(), end.open()), (1, 3));
    }
    end.receive(before).unwrap();
    local(&mut end);
    end.output();
    leads(&mut end, bytes)
}

fn leads(end: &mut End, bytes: &[u8]) -> Leads {
    match end.receive(bytes) {
        Err(violation) => Ends(violation.code),
        Ok(()) => {
            let frames = end.frames().into_iter();
            let resets = frames.filter(|(head, _)| head.kind == kind::RST_STREAM);
            let code = |bytes: Vec<u8>| Code(u32::from_be_bytes(bytes.try_into().unwrap()));
            Leads::Resets(resets.map(|(head, bytes)| (head.stream, code(bytes))).collect())
        }
    }
}

/// Rows of: what it is, frames before, frames that are judged, what they lead to.
pub(super) fn table<const N: usize>(role: Role, rows: [(&str, Vec<u8>, Vec<u8>, Leads); N]) {
    for (what, before, bytes, expected) in rows {
        assert_eq!(play(role, &before, |_| (), &bytes), expected, "{what} at the {role:?}");
    }
}

#[test]
fn a_greeting() {
    let settings = || frame::settings(&[(setting::MAX_CONCURRENT_STREAMS, 7)]);
    let preface = || PREFACE.to_vec();
    let rows = [
        (Server, [preface(), settings()].concat(), lives()),
        (Server, b"GET / HTTP/1.1\r\n".to_vec(), Ends(PROTOCOL)),
        (Server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX".to_vec(), Ends(PROTOCOL)),
        (Server, [preface(), frame::ping(false, [0; 8]).to_vec()].concat(), Ends(PROTOCOL)),
        (Server, [preface(), frame::settings_ack().to_vec(), settings()].concat(), Ends(PROTOCOL)),
        (Server, [preface(), connect(1)].concat(), Ends(PROTOCOL)),
        (Server, settings(), Ends(PROTOCOL)),
        (Client, settings(), lives()),
        (Client, frame::settings_ack().to_vec(), Ends(PROTOCOL)),
        (Client, frame::goaway(0, Code::NO_ERROR).to_vec(), Ends(PROTOCOL)),
        (Client, preface(), Ends(SIZE)),
    ];
    for (role, bytes, expected) in rows {
        let mut end = End::new(role, &config());
        end.output();
        assert_eq!(leads(&mut end, &bytes), expected, "{role:?}: {bytes:?}");
        assert_eq!(end.mux.ready(), expected == lives());
    }
}

#[test]
fn what_each_side_says_first() {
    for (role, id) in [(Server, setting::MAX_CONCURRENT_STREAMS), (Client, setting::ENABLE_PUSH)] {
        let mut end = End::new(role, &Config::default());
        let bytes = end.output();
        assert_eq!(bytes.starts_with(PREFACE), role == Client);
        let frames = frames(&bytes);
        let kinds: Vec<u8> = frames.iter().map(|(head, _)| head.kind).collect();
        assert_eq!(kinds, [kind::SETTINGS, kind::WINDOW_UPDATE]);
        assert!(frames[0].1.chunks(6).any(|pair| pair[..2] == id.to_be_bytes()));
        // Whatever the configuration, the window that is announced is one (RFC 9113, 6.9.1).
        assert!(end.mux.receive <= MAX_WINDOW);
    }
}

#[test]
fn frames_that_every_stream_and_role_may_get() {
    let ping = |flags, len| raw(kind::PING, flags, 0, &vec![0; len]);
    let setting = |id: u16, value: u32| frame::settings(&[(id, value)]);
    for role in [Server, Client] {
        table(
            role,
            [
                // RFC 9113, 4.2 asks for FRAME_SIZE_ERROR; h2 says PROTOCOL_ERROR for frames of a wrong size.
                ("the largest frame", vec![], raw(99, 0, 0, &[0; 20_000]), lives()),
                ("a larger one", vec![], raw(99, 0, 0, &[0; 20_001]), Ends(SIZE)),
                ("an empty frame of an unknown type", vec![], raw(99, 0xff, 5, &[]), lives()),
                ("PING", vec![], ping(0, 8), lives()),
                ("an answer to no PING", vec![], ping(flag::ACK, 8), lives()),
                ("a short PING", vec![], ping(0, 7), Ends(SIZE)),
                ("a long PING", vec![], ping(flag::ACK, 9), Ends(SIZE)),
                ("PING on a stream", vec![], raw(kind::PING, 0, 1, &[0; 8]), Ends(PROTOCOL)),
                // RFC 9113, 5.3: deprecated. h2 resets a stream that depends on itself; sizes are a stream's error in the RFC, but
                // whoever miscounts here is no peer to go on with.
                (
                    "PRIORITY on an idle stream",
                    vec![],
                    raw(kind::PRIORITY, 0, 99, &[0, 0, 0, 99, 1]),
                    lives(),
                ),
                ("a short PRIORITY", vec![], raw(kind::PRIORITY, 0, 1, &[0; 4]), Ends(SIZE)),
                ("PRIORITY on the connection", vec![], raw(kind::PRIORITY, 0, 0, &[0; 5]), Ends(PROTOCOL)),
                (
                    "RST_STREAM on the connection",
                    vec![],
                    raw(kind::RST_STREAM, 0, 0, &[0; 4]),
                    Ends(PROTOCOL),
                ),
                (
                    "RST_STREAM on an idle stream",
                    vec![],
                    frame::rst_stream(9, PROTOCOL).to_vec(),
                    Ends(PROTOCOL),
                ),
                (
                    "RST_STREAM on an even stream",
                    vec![],
                    frame::rst_stream(2, PROTOCOL).to_vec(),
                    Ends(PROTOCOL),
                ),
                (
                    "a long RST_STREAM",
                    connect_or_none(role),
                    raw(kind::RST_STREAM, 0, 1, &[0; 5]),
                    Ends(SIZE),
                ),
                // h2 ends the connection: it has nothing to be acknowledged. It does no harm.
                ("SETTINGS acknowledged twice", vec![], frame::settings_ack().repeat(2), lives()),
                ("an ACK with SETTINGS", vec![], raw(kind::SETTINGS, flag::ACK, 0, &[0; 6]), Ends(SIZE)),
                ("SETTINGS of seven bytes", vec![], raw(kind::SETTINGS, 0, 0, &[0; 7]), Ends(SIZE)),
                ("SETTINGS of a stream", vec![], raw(kind::SETTINGS, 0, 1, &[]), Ends(PROTOCOL)),
                ("empty SETTINGS", vec![], frame::settings(&[]), lives()),
                ("unknown SETTINGS", vec![], setting(99, u32::MAX), lives()),
                ("as many SETTINGS as are read", vec![], frame::settings(&[(99, 1); 128]), lives()),
                ("more", vec![], frame::settings(&[(99, 1); 129]), Ends(CALM)),
                ("the largest window", vec![], setting(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff), lives()),
                ("a larger one", vec![], setting(setting::INITIAL_WINDOW_SIZE, 0x8000_0000), Ends(FLOW)),
                ("a frame size too small", vec![], setting(setting::MAX_FRAME_SIZE, 16_383), Ends(PROTOCOL)),
                ("the smallest", vec![], setting(setting::MAX_FRAME_SIZE, 16_384), lives()),
                ("the largest", vec![], setting(setting::MAX_FRAME_SIZE, (1 << 24) - 1), lives()),
                ("one too large", vec![], setting(setting::MAX_FRAME_SIZE, 1 << 24), Ends(PROTOCOL)),
                ("ENABLE_PUSH of two", vec![], setting(setting::ENABLE_PUSH, 2), Ends(PROTOCOL)),
                ("no streams at all", vec![], setting(setting::MAX_CONCURRENT_STREAMS, 0), lives()),
                ("a short GOAWAY", vec![], raw(kind::GOAWAY, 0, 0, &[0; 7]), Ends(SIZE)),
                ("GOAWAY with a text", vec![], raw(kind::GOAWAY, 0, 0, &[b'x'; 700]), lives()),
                ("GOAWAY with a book", vec![], raw(kind::GOAWAY, 0, 0, &[b'x'; 777]), Ends(CALM)),
                ("GOAWAY on a stream", vec![], raw(kind::GOAWAY, 0, 1, &[0; 8]), Ends(PROTOCOL)),
                (
                    "PUSH_PROMISE",
                    connect_or_none(role),
                    raw(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
                    Ends(PROTOCOL),
                ),
                ("CONTINUATION of nothing", vec![], raw(kind::CONTINUATION, 4, 1, &[]), Ends(PROTOCOL)),
                ("DATA on the connection", vec![], data(0, 1, 0), Ends(PROTOCOL)),
                ("DATA on an idle stream", vec![], data(9, 1, 0), Ends(PROTOCOL)),
                ("DATA on an even stream", vec![], data(2, 1, 0), Ends(PROTOCOL)),
                ("a window of the connection", vec![], frame::window_update(0, 1).to_vec(), lives()),
                ("none", vec![], raw(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), Ends(PROTOCOL)),
                (
                    "none but the reserved bit",
                    vec![],
                    raw(kind::WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0]),
                    Ends(PROTOCOL),
                ),
                ("the largest", vec![], frame::window_update(0, 0x7fff_ffff - 65_535).to_vec(), lives()),
                (
                    "too large a one",
                    vec![],
                    frame::window_update(0, 0x7fff_ffff - 65_534).to_vec(),
                    Ends(FLOW),
                ),
                ("a long WINDOW_UPDATE", vec![], raw(kind::WINDOW_UPDATE, 0, 0, &[1; 8]), Ends(SIZE)),
                (
                    "WINDOW_UPDATE on an idle stream",
                    vec![],
                    frame::window_update(9, 1).to_vec(),
                    Ends(PROTOCOL),
                ),
            ],
        );
    }
    // RFC 9113, 6.5.2. h2 lets a server say that.
    table(
        Client,
        [("a server that asks for pushes", vec![], setting(setting::ENABLE_PUSH, 1), Ends(PROTOCOL))],
    );
    table(Server, [("a client that takes pushes", vec![], setting(setting::ENABLE_PUSH, 1), lives())]);
}

/// What makes stream 1 be there: a client has opened it already.
pub(super) fn connect_or_none(role: Role) -> Vec<u8> {
    if role == Server { connect(1) } else { answered(1) }
}

#[test]
fn frames_of_streams_that_both_roles_may_get() {
    for role in [Server, Client] {
        let open = || connect_or_none(role);
        let ended = || [open(), data(1, 0, flag::END_STREAM)].concat();
        let gone = || [open(), frame::rst_stream(1, Code::CANCEL).to_vec()].concat();
        let update = |n| frame::window_update(1, n).to_vec();
        let padded = |payload: &[u8]| raw(kind::DATA, flag::PADDED, 1, payload);
        table(
            role,
            [
                ("DATA", open(), data(1, 20_000, 0), lives()),
                ("DATA up to the window", open(), data(1, 17_500, 0).repeat(4), lives()),
                ("DATA past the window", open(), data(1, 17_501, 0).repeat(4), resets(1, FLOW)),
                // RFC 9113, 5.1: an error of the stream. h2 ends the connection, with PROTOCOL_ERROR.
                ("DATA after the end", ended(), data(1, 1, 0), resets(1, Code::STREAM_CLOSED)),
                ("empty DATA after the end", ended(), data(1, 0, 0), resets(1, Code::STREAM_CLOSED)),
                // Bytes may be on their way for ever; h2 answers each frame with RST_STREAM once it has forgotten the stream.
                ("DATA after a reset", gone(), data(1, 9, 0), lives()),
                ("a second reset", gone(), frame::rst_stream(1, PROTOCOL).to_vec(), lives()),
                ("WINDOW_UPDATE after a reset", gone(), update(1), lives()),
                ("trailers", open(), headers(1, &block(&[("x", "y")]), flag::END_STREAM), lives()),
                (
                    "trailers without the end",
                    open(),
                    headers(1, &block(&[("x", "y")]), 0),
                    resets(1, PROTOCOL),
                ),
                // RFC 9113, 5.1 names STREAM_CLOSED; that nothing may follow is what counts.
                ("trailers after the end", ended(), headers(1, &[], flag::END_STREAM), resets(1, PROTOCOL)),
                (
                    "trailers with :status",
                    open(),
                    headers(1, &block(&[(":status", "200")]), 1),
                    resets(1, PROTOCOL),
                ),
                (
                    "trailers with :path",
                    open(),
                    headers(1, &block(&[(":path", "/")]), 1),
                    resets(1, PROTOCOL),
                ),
                (
                    "DATA after trailers",
                    [open(), headers(1, &[], 1)].concat(),
                    data(1, 1, 0),
                    resets(1, Code::STREAM_CLOSED),
                ),
                ("a window of nothing", open(), update(0), resets(1, PROTOCOL)),
                ("the largest window", open(), update(0x7fff_ffff - 65_535), lives()),
                ("a larger one", open(), update(0x7fff_ffff - 65_534), resets(1, FLOW)),
                (
                    "SETTINGS that make it larger",
                    [open(), update(0x7fff_ffff - 65_535)].concat(),
                    frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_536)]),
                    Ends(FLOW),
                ),
                (
                    "SETTINGS that make it smaller",
                    [open(), update(0x7fff_ffff - 65_535)].concat(),
                    frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]),
                    lives(),
                ),
                ("no padding", open(), padded(&[0, 7]), lives()),
                ("nothing but padding", open(), padded(&[3, 0, 0, 0]), lives()),
                ("one byte that says so", open(), padded(&[0]), lives()),
                ("padding as long as the frame", open(), padded(&[2, 7]), Ends(PROTOCOL)),
                ("no room for padding", open(), padded(&[]), Ends(SIZE)),
                // What is padding counts, too: 70,000 fit.
                (
                    "padding past the window",
                    [open(), data(1, 17_500, 0).repeat(4)].concat(),
                    padded(&[0]),
                    resets(1, FLOW),
                ),
                ("HEADERS on an even stream", vec![], connect(2), Ends(PROTOCOL)),
                ("HEADERS on the connection", vec![], connect(0), Ends(PROTOCOL)),
                ("a block for a stream that is gone", gone(), headers(1, &[], 1), lives()),
            ],
        );
        // What came after a stream was reset here, in front of the peer's knowing it.
        for bytes in [data(1, 100, 0), data(1, 0, 1), headers(1, &[], 1), update(0), update(5)] {
            let reset = |end: &mut End| end.mux.reset(1, Code::CANCEL, &mut end.out);
            assert_eq!(play(role, &open(), reset, &bytes), lives(), "{bytes:?}");
            let release = |end: &mut End| end.mux.release(1, &mut end.out);
            assert_eq!(play(role, &open(), release, &bytes), lives(), "{bytes:?}");
        }
    }
}
