//! Floods find their bound, and honest peers never do.

use super::*;

/// Sends `frame` until it is one too many; how many were taken.
fn flood(end: &mut End, mut frame: impl FnMut(u32) -> Vec<u8>) -> u32 {
    for n in 0..100_000 {
        match end.receive(&frame(n)) {
            Ok(()) => end.out.flush(|bytes| Ok(bytes.len())).unwrap(),
            Err(violation) => {
                assert_eq!(violation.code, ResetReason::ENHANCE_YOUR_CALM, "{violation:?}");
                return n;
            }
        };
    }
    panic!("no bound");
}

fn server() -> End {
    let mut end = End::greeted(Role::Server, &Config::default());
    end.receive(&connect(1)).unwrap();
    end.mux.take_request();
    end
}

fn client() -> End {
    let mut end = End::greeted(Role::Client, &Config::default());
    end.open();
    end
}

#[test]
fn floods_of_frames_that_carry_nothing_have_a_bound() {
    let floods: [(&str, Vec<u8>); 9] = [
        ("empty DATA", data(1, 0, 0)),
        ("PING", frame::ping(false, [0; 8]).to_vec()),
        ("PONG", frame::ping(true, [0; 8]).to_vec()),
        ("SETTINGS", frame::settings(&[])),
        ("PRIORITY", raw(kind::PRIORITY, 0, 1, &[0; 5])),
        ("WINDOW_UPDATE", frame::window_update(0, 1).to_vec()),
        ("WINDOW_UPDATE of a stream", frame::window_update(1, 1).to_vec()),
        ("what nobody knows", raw(99, 0, 0, b"x")),
        ("ACK", frame::settings_ack().to_vec()),
    ];
    for (what, frame) in floods {
        let taken = flood(&mut server(), |_| frame.clone());
        assert!((9_000..=10_100).contains(&taken), "{what}: {taken}");
    }
}

#[test]
fn floods_of_headers_that_mean_nothing_have_a_bound() {
    // For streams that are gone, or were reset here and are still held.
    let mut end = server();
    end.mux.release(1, &mut end.out);
    assert!(flood(&mut end, |_| headers(1, &[], 1)) <= 10_100);
    let mut end = server();
    end.mux.reset(1, ResetReason::CANCEL, &mut end.out);
    assert!(flood(&mut end, |_| headers(1, &[], 1)) <= 10_100);
    // Provisional answers without end.
    let provisional = headers(1, &block(&[(":status", "103")]), 0);
    assert!(flood(&mut client(), |_| provisional.clone()) <= 10_100);
    // Parts of a block that add nothing to it.
    let mut end = server();
    end.receive(&raw(kind::HEADERS, 0, 3, &asks())).unwrap();
    assert!(flood(&mut end, |_| raw(kind::CONTINUATION, 0, 3, &[])) <= 10_100);
    // And parts of a byte each.
    let mut end = server();
    end.receive(&raw(kind::HEADERS, 0, 3, &asks())).unwrap();
    assert!(flood(&mut end, |_| raw(kind::CONTINUATION, 0, 3, &[0])) <= 64 << 10);
}

#[test]
fn rapid_resets_have_a_bound() {
    let id = |n: u32| 3 + 2 * n;
    let reset = |n| [connect(id(n)), frame::rst_stream(id(n), ResetReason::CANCEL).to_vec()].concat();
    let taken = flood(&mut server(), reset);
    // More than a client's streams may be given up at once, and not many times more.
    assert!((150..=250).contains(&taken), "{taken}");
    // Malformed requests, and those past the limit, are as cheap to send.
    assert!(flood(&mut server(), |n| headers(id(n), &[], 0)) <= 250);
    let mut end = End::greeted(Role::Server, &Config { server_streams: 1, ..Config::default() });
    end.receive(&connect(1)).unwrap();
    assert!(flood(&mut end, |n| connect(id(n))) <= 250);
}

#[test]
fn rest_makes_up_for_what_is_sent_at_rest() {
    // Four hours of a tunnel without use: a PING each second, SETTINGS each ten, and an answer to each of ours.
    let mut end = client();
    for second in 0..14_400 {
        end.receive(&frame::ping(false, [1; 8])).unwrap();
        if second % 10 == 0 {
            end.mux.rest();
            end.mux.send_ping(&mut end.out);
            end.receive(&frame::settings(&[])).unwrap();
            end.receive(&frame::ping(true, KEEPALIVE_PING)).unwrap();
        }
        end.output();
    }
}

/// Go's HTTP/2 tells of each 4 KiB that were read, for the stream and for the connection, and does not wait for more.
#[test]
fn a_peer_that_tells_of_each_4_kib_may_be_sent_any_amount() {
    let mut end = server();
    end.mux.answer(1, &block(&[(":status", "200")]), false, &mut end.out);
    end.receive(&frame::window_update(0, 1 << 30)).unwrap();
    end.receive(&frame::window_update(1, 1 << 30)).unwrap();
    // A gibibyte, in reads of the application of up to 256 KiB.
    let updates = [frame::window_update(1, 4096), frame::window_update(0, 4096)].concat();
    for size in [256 << 10, 64 << 10, 16 << 10, 4 << 10] {
        for _ in 0..(256 << 20) / size {
            assert!(end.mux.window(1).unwrap() >= size);
            end.mux.sent(1, size);
            for _ in 0..size / 4096 {
                end.receive(&updates).unwrap();
            }
        }
    }
}

/// Small calls, one after the other and a hundred at a time, given up or not.
#[test]
fn honest_calls_never_end_a_tunnel() {
    let mut end = End::greeted(Role::Server, &Config::default());
    let ok = block(&[(":status", "200")]);
    for n in 0..20_000 {
        let id = 1 + 2 * n;
        end.receive(&[connect(id), frame::window_update(id, 1 << 20).to_vec()].concat()).unwrap();
        assert_eq!(end.mux.take_request(), Some(id));
        assert!(end.mux.answer(id, &ok, false, &mut end.out));
        end.receive(&data(id, 100, 0)).unwrap();
        end.mux.stream(id).unwrap().inbox.pop().unwrap();
        end.mux.taken(id, 100, &mut end.out);
        end.mux.sent(id, 100);
        let end_of_it = [data(id, 0, 1), frame::rst_stream(id, ResetReason::CANCEL).to_vec()];
        end.receive(&end_of_it[n as usize % 2]).unwrap();
        end.mux.finish(id, &mut end.out);
        end.mux.release(id, &mut end.out);
        if n % 50 == 0 {
            end.receive(&frame::window_update(0, 5000)).unwrap();
            end.output();
        }
    }
    assert_eq!((end.mux.streams.len(), end.mux.open), (0, 0));
}

/// All of a client's callers give up at once before anybody has looked, every few seconds.
#[test]
fn a_hundred_requests_given_up_at_once_are_no_flood() {
    let mut end = End::greeted(Role::Server, &Config::default());
    let mut id = 1;
    for _ in 0..20 {
        let ids: Vec<u32> = (0..100).map(|n| id + 2 * n).collect();
        id += 200;
        ids.iter().for_each(|id| end.receive(&connect(*id)).unwrap());
        ids.iter().for_each(|id| end.receive(&frame::rst_stream(*id, ResetReason::CANCEL)).unwrap());
        // What goes on meanwhile, or time.
        (0..6).for_each(|_| end.mux.rest());
    }
}
