//! PING, GOAWAY, resets, and the windows that are left behind.

use super::rules::*;
use super::*;

#[test]
fn pings_are_answered_with_what_they_bring() {
    let mut end = End::greeted(Server, &config());
    end.receive(&frame::ping(false, *b"whatever")).unwrap();
    assert_eq!(end.output(), frame::ping(true, *b"whatever"));
    end.mux.send_ping(&mut end.out);
    assert_eq!(end.output(), frame::ping(false, KEEPALIVE_PING));
    end.receive(&frame::ping(true, *b"whatever")).unwrap();
    end.receive(&frame::ping(false, KEEPALIVE_PING)).unwrap();
    assert!(end.mux.ping_unanswered());
    end.receive(&frame::ping(true, KEEPALIVE_PING)).unwrap();
    assert!(!end.mux.ping_unanswered());
}

#[test]
fn goaway_of_a_server_frees_the_streams_above_its_last() {
    let mut end = End::greeted(Client, &Config::default());
    let ids = [end.open(), end.open(), end.open()];
    end.receive(&[answered(1), frame::goaway(0x7fff_ffff, Code::NO_ERROR).to_vec()].concat()).unwrap();
    assert_eq!(end.mux.request(&[], &mut end.out), None);
    assert_eq!(end.mux.open_streams(), 3);
    end.receive(&frame::goaway(1, Code::NO_ERROR)).unwrap();
    let refused = Some(Reset::Peer(Code::REFUSED_STREAM));
    assert_eq!(ids.map(|id| end.mux.stream(id).unwrap().reset), [None, refused, refused]);
    assert_eq!(end.mux.open_streams(), 1);
    // What is below goes on to its end; what is above is over.
    end.receive(&[data(1, 5, 0), answered(3), data(1, 0, 1)].concat()).unwrap();
    end.mux.finish(1, &mut end.out);
    assert_eq!((end.mux.stream(1).unwrap().inbox.len(), end.mux.open_streams()), (5, 0));
    for id in ids {
        end.mux.release(id, &mut end.out);
    }
    assert!(end.mux.streams.is_empty());
}

#[test]
fn goaway_of_a_client_leaves_its_streams() {
    let mut end = End::greeted(Server, &Config::default());
    end.receive(&[connect(1), frame::goaway(0, Code::NO_ERROR).to_vec()].concat()).unwrap();
    assert_eq!(end.mux.take_request(), Some(1));
    assert!(end.mux.answer(1, &block(&[(":status", "200")]), false, &mut end.out));
    end.receive(&data(1, 5, 1)).unwrap();
    end.mux.finish(1, &mut end.out);
    assert_eq!(end.mux.stream(1).unwrap().reset, None);
}

#[test]
fn a_server_that_drains_serves_what_was_sent_before_the_client_knew() {
    let mut end = End::greeted(Server, &Config::default());
    end.receive(&connect(1)).unwrap();
    end.mux.drain(&mut end.out);
    end.mux.drain(&mut end.out);
    assert_eq!(
        end.output(),
        [frame::goaway(0x7fff_ffff, Code::NO_ERROR), frame::ping(false, DRAIN_PING)].concat()
    );
    end.receive(&[connect(3), frame::ping(true, DRAIN_PING).to_vec()].concat()).unwrap();
    assert_eq!(end.output(), frame::goaway(3, Code::NO_ERROR));
    end.receive(&connect(5)).unwrap();
    assert_eq!(end.output(), frame::rst_stream(5, Code::REFUSED_STREAM));
    for id in [1, 3] {
        assert!(!end.mux.drained());
        assert_eq!(end.mux.take_request(), Some(id));
        end.mux.release(id, &mut end.out);
    }
    assert!(end.mux.drained());
    end.output();
    // RFC 9113, 6.8: what is said last is never above what was said before, and 5 was not served.
    end.mux.leave(Code::NO_ERROR, &mut end.out);
    assert_eq!(end.output(), frame::goaway(3, Code::NO_ERROR));
}

/// RFC 9113, 8.1: a server that has answered in full may reset the rest of a request, without taking its answer back.
#[test]
fn a_reset_after_a_full_answer_takes_nothing_back() {
    let mut end = End::greeted(Client, &Config::default());
    end.open();
    end.receive(
        &[headers(1, &block(&[(":status", "401")]), 1), frame::rst_stream(1, Code::NO_ERROR).to_vec()]
            .concat(),
    )
    .unwrap();
    let entry = end.mux.stream(1).unwrap();
    assert_eq!(entry.head.take().and_then(|head| head.status), Some(401));
    assert!(entry.received_end);
    assert_eq!(end.mux.window(1), None);
}

/// Both directions had ended: there was nothing left to reset (RFC 9113, 5.1).
#[test]
fn a_reset_of_a_stream_that_has_ended_is_none() {
    for role in [Server, Client] {
        let mut end = End::greeted(role, &Config::default());
        if role == Client {
            end.open();
        }
        end.receive(&connect_or_none(role)).unwrap();
        if role == Server {
            end.mux.take_request();
            end.mux.answer(1, &block(&[(":status", "200")]), false, &mut end.out);
        }
        end.receive(&data(1, 5, 1)).unwrap();
        end.mux.finish(1, &mut end.out);
        end.receive(&frame::rst_stream(1, Code::CANCEL)).unwrap();
        let entry = end.mux.stream(1).unwrap();
        assert_eq!((entry.reset, entry.inbox.len(), entry.received_end), (None, 5, true));
        assert_eq!(end.mux.open_streams(), 0);
    }
}

/// Bytes of a request that was given up before anybody saw it are nobody's, and make room for others.
#[test]
fn a_request_that_is_given_up_unseen_gives_its_window_back() {
    let mut end = End::greeted(Server, &Config::default());
    end.receive(&[connect(1), data(1, 10_000, 0), frame::rst_stream(1, Code::CANCEL).to_vec()].concat())
        .unwrap();
    assert_eq!((end.mux.take_request(), end.mux.streams.len()), (None, 0));
    assert!(window_is_whole(&end.mux));
}

/// RFC 9113, 6.9: a window grows by at least one.
#[test]
fn no_window_update_is_empty() {
    let mut end = End::greeted(Server, &config());
    end.receive(&[connect(1), connect(3)].concat()).unwrap();
    end.receive(&[data(1, 17_500, 0).repeat(4), data(3, 17_500, 0).repeat(4)].concat()).unwrap();
    end.receive(&[connect(5), data(5, 0, flag::END_STREAM), data(5, 0, 0)].concat()).unwrap();
    let updates = end.frames().into_iter().filter(|(head, _)| head.kind == kind::WINDOW_UPDATE);
    assert!(updates.into_iter().all(|(_, by)| by != [0; 4]), "a WINDOW_UPDATE of nothing");
}

/// A client's window of the connection holds for all its streams, also for those that are gone.
#[test]
fn the_window_of_the_connection_is_kept() {
    for id in [1, 3] {
        let mut end =
            End::greeted(Server, &Config { connection_window: 100_000, frame: 1 << 20, ..config() });
        end.receive(&[connect(1), connect(3), frame::rst_stream(3, Code::CANCEL).to_vec()].concat()).unwrap();
        let room = usize::try_from(end.mux.receive).unwrap();
        assert_eq!(end.receive(&data(id, room + 1, 0)).unwrap_err().code, FLOW);
    }
}

/// Readers that stop take nothing from their neighbours: the connection's window is given back as bytes arrive.
#[test]
fn the_window_of_the_connection_is_given_back_on_arrival() {
    let mut end = End::greeted(Server, &Config { connection_window: 100_000, ..config() });
    for id in (1..20).step_by(2) {
        end.receive(&[connect(id), data(id, 17_500, 0).repeat(4)].concat()).unwrap();
        assert!(window_is_whole(&end.mux));
    }
}
