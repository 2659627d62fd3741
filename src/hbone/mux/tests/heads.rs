//! Header blocks, and what requests and answers must be. Where ours differs from `h2` 0.4 on purpose, the row says so.

use super::rules::*;
use super::*;

#[test]
fn header_blocks_at_a_server() {
    let part = |kind, flags, stream, block: &[u8]| raw(kind, flags, stream, block);
    let asks = asks();
    let (one, two) = asks.split_at(5);
    let begun = || part(kind::HEADERS, 0, 1, one);
    let end = || part(kind::CONTINUATION, flag::END_HEADERS, 1, two);
    let padded = |pad: u8, flags, more: usize| {
        part(kind::HEADERS, flags | flag::PADDED | 4, 1, &[&[pad][..], &asks, &vec![0; more]].concat())
    };
    let large = |n: usize| {
        let mut block = asks.clone();
        hpack::field(&mut block, b"x", &vec![b'y'; n]);
        let mut bytes = Vec::new();
        let mut parts = block.chunks(15_000).peekable();
        let mut kind = kind::HEADERS;
        while let Some(now) = parts.next() {
            bytes.extend(part(kind, if parts.peek().is_none() { 4 } else { 0 }, 1, now));
            kind = kind::CONTINUATION;
        }
        bytes
    };
    table(
        Server,
        [
            ("a block in two parts", vec![], [begun(), end()].concat(), lives()),
            ("in three, one of them empty", vec![], [begun(), part(9, 0, 1, &[]), end()].concat(), lives()),
            ("an empty block", vec![], headers(1, &[], 0), resets(1, PROTOCOL)),
            ("interrupted by PING", begun(), frame::ping(false, [0; 8]).to_vec(), Ends(PROTOCOL)),
            ("by DATA", [connect(1), part(1, 0, 3, one)].concat(), data(1, 1, 0), Ends(PROTOCOL)),
            ("by what nobody knows", begun(), raw(99, 0, 0, &[]), Ends(PROTOCOL)),
            ("by other HEADERS", begun(), connect(3), Ends(PROTOCOL)),
            ("continued on another stream", begun(), part(9, 4, 3, two), Ends(PROTOCOL)),
            ("continued after its end", [begun(), end()].concat(), end(), Ends(PROTOCOL)),
            ("padding", vec![], padded(9, 0, 9), lives()),
            ("no padding", vec![], padded(0, 0, 0), lives()),
            ("padding that is all", vec![], part(1, 4 | 8, 1, &[3, 0, 0, 0]), resets(1, PROTOCOL)),
            ("too much of it", vec![], padded(200, 0, 9), Ends(PROTOCOL)),
            ("no room for it", vec![], part(1, 4 | 8, 1, &[]), Ends(SIZE)),
            ("a priority", vec![], part(1, 4 | 0x20, 1, &[&[0, 0, 0, 1, 9][..], &asks].concat()), lives()),
            ("no room for a priority", vec![], part(1, 4 | 0x20, 1, &[0; 4]), Ends(PROTOCOL)),
            (
                "room only without the padding",
                vec![],
                part(1, 4 | 0x28, 1, &[1, 0, 0, 0, 0, 0]),
                Ends(PROTOCOL),
            ),
            // RFC 9113, 4.3. h2 says PROTOCOL_ERROR.
            ("a broken block", vec![], headers(1, &[0x80], 0), Ends(Code::COMPRESSION_ERROR)),
            ("a block that ends early", vec![], headers(1, &asks[..8], 0), Ends(Code::COMPRESSION_ERROR)),
            // 431, and no more is wanted of it. h2 adds RST_STREAM of PROTOCOL_ERROR.
            ("a list too large", vec![], large(2000), resets(1, Code::NO_ERROR)),
            ("one much too large", vec![], large(50_000), resets(1, Code::NO_ERROR)),
            ("one far too large", vec![], large(66_000), Ends(CALM)),
            // A client's numbers only grow: what is below was closed when a higher one was opened.
            ("a stream that was passed over", connect(5), connect(3), lives()),
            (
                "a stream past the limit",
                [connect(1), connect(3)].concat(),
                connect(5),
                resets(5, Code::REFUSED_STREAM),
            ),
            (
                "DATA for a refused stream",
                [connect(1), connect(3), connect(5)].concat(),
                data(5, 9, 1),
                lives(),
            ),
        ],
    );
}

#[test]
fn requests_that_are_malformed() {
    let ask = |fields: &[(&str, &str)]| play(Server, &[], |_| (), &headers(1, &block(fields), 0));
    let (connect, to) = ((":method", "CONNECT"), (":authority", "10.0.0.1:80"));
    assert_eq!(ask(&[connect, to, ("x", "y")]), lives());
    // No request of ours, but one: the answer is 400, with a reason.
    assert_eq!(ask(&[(":method", "GET"), (":path", "/"), (":scheme", "https")]), lives());
    for fields in [
        &[connect][..],
        &[to],
        &[connect, to, (":path", "/")],
        &[connect, to, (":scheme", "https")],
        &[connect, to, (":status", "200")],
        &[connect, connect, to],
        &[connect, to, to],
        &[connect, to, (":protocol", "websocket")],
        &[connect, ("x", "y"), to],
        &[connect, to, ("X", "y")],
        &[connect, to, ("connection", "close")],
        &[connect, to, ("transfer-encoding", "chunked")],
        &[connect, to, ("a b", "c")],
        &[connect, to, ("", "c")],
        &[connect, to, ("x", "a\nb")],
        &[connect, to, ("x", "a\0b")],
    ] {
        assert_eq!(ask(fields), resets(1, PROTOCOL), "{fields:?}");
    }
}

#[test]
fn answers_at_a_client() {
    let status = |value, flags| headers(1, &block(&[(":status", value)]), flags);
    let bad = |fields: &[(&str, &str)]| headers(1, &block(fields), 0);
    table(
        Client,
        [
            ("an answer", vec![], answered(1), lives()),
            ("an answer that is all", vec![], status("200", 1), lives()),
            (
                "a provisional one before it",
                vec![],
                [status("100", 0), status("103", 0), answered(1)].concat(),
                lives(),
            ),
            ("a provisional one that ends", vec![], status("103", 1), resets(1, PROTOCOL)),
            ("a second answer", answered(1), answered(1), resets(1, PROTOCOL)),
            ("a provisional one after it", answered(1), status("103", 0), resets(1, PROTOCOL)),
            ("no status", vec![], bad(&[("x", "y")]), resets(1, PROTOCOL)),
            ("two", vec![], bad(&[(":status", "200"), (":status", "200")]), resets(1, PROTOCOL)),
            ("a status of words", vec![], bad(&[(":status", "+20")]), resets(1, PROTOCOL)),
            ("a status below any", vec![], bad(&[(":status", "099")]), resets(1, PROTOCOL)),
            ("a method", vec![], bad(&[(":status", "200"), (":method", "GET")]), resets(1, PROTOCOL)),
            (
                "too large a list",
                vec![],
                bad(&[(":status", "200"), ("x", &"y".repeat(2000))]),
                resets(1, PROTOCOL),
            ),
            // h2 ends the connection.
            ("DATA before the answer", vec![], data(1, 1, 0), resets(1, Code::STREAM_CLOSED)),
            ("DATA after a provisional one", status("100", 0), data(1, 1, 0), resets(1, Code::STREAM_CLOSED)),
            ("HEADERS on a stream of nobody", vec![], answered(5), Ends(PROTOCOL)),
        ],
    );
}

#[test]
fn long_blocks_leave_in_parts_that_the_peer_takes() {
    let mut end = End::greeted(Client, &Config::default());
    let mut names = http::HeaderMap::new();
    names.insert("baggage", "x".repeat(40_000).parse().unwrap());
    end.mux.request(&head::request("10.0.0.1:80", &names), &mut end.out).unwrap();
    let frames = end.frames();
    let heads: Vec<_> = frames.iter().map(|(head, _)| (head.kind, head.flags)).collect();
    assert_eq!(heads, [(1, 0), (9, 0), (9, flag::END_HEADERS)]);
    assert!(frames.iter().all(|(head, _)| head.len <= 16_384));
    // A server with room for it in one frame.
    let bytes: Vec<u8> =
        frames.into_iter().flat_map(|(head, bytes)| raw(head.kind, head.flags, 1, &bytes)).collect();
    let mut server = End::greeted(Server, &Config { header_list: 50_000, ..Config::default() });
    server.receive(&bytes).unwrap();
    assert_eq!(server.mux.take_request(), Some(1));
    end.receive(&frame::settings(&[(setting::MAX_FRAME_SIZE, 1 << 20)])).unwrap();
    end.output();
    end.mux.request(&head::request("10.0.0.1:80", &names), &mut end.out).unwrap();
    assert_eq!(end.frames().len(), 1);
}
