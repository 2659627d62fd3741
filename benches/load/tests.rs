use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    thread,
};

use super::{
    frame::{REQUEST, Request},
    *,
};

const SHORT: Limit = Limit { time: Duration::from_millis(100), count: 1 << 40 };

/// A server on loopback, which lives as long as the test process.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || server::run(&listener));
    address
}

/// Carries one connection to `server`, of the bytes from the server only the first `most`.
fn cutting_proxy(server: SocketAddr, most: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut upstream = TcpStream::connect(server).unwrap();
        let mut request = [0; REQUEST];
        client.read_exact(&mut request).unwrap();
        upstream.write_all(&request).unwrap();
        std::io::copy(&mut upstream.take(most), &mut client).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client.read_to_end(&mut Vec::new()).ok();
    });
    address
}

#[test]
fn requests_are_what_they_were_after_the_wire() {
    for request in [Request::Reply, Request::ReplyAndClose, Request::Sink, Request::Source { most: 1 << 40 }]
    {
        assert_eq!(Request::decode(&request.encode()), Some(request));
    }
    let mut bad = Request::Reply.encode();
    bad[REQUEST - 1] = b'x';
    assert_eq!(Request::decode(&bad), None);
}

#[test]
fn requests_are_counted_and_bounded_in_time() {
    let outcome = Job::Requests { connections: 4, limit: SHORT }.run(server()).unwrap();
    assert!(outcome.operations > 10, "{outcome:?}");
    assert_eq!(outcome.bytes, outcome.operations * 1024);
    assert!(outcome.p50 > Duration::ZERO && outcome.p50 <= outcome.p99, "{outcome:?}");
    assert!(outcome.elapsed >= SHORT.time, "{outcome:?}");
}

#[test]
fn requests_are_bounded_in_count() {
    let limit = Limit { time: Duration::from_secs(60), count: 100 };
    let outcome = Job::Requests { connections: 1, limit }.run(server()).unwrap();
    assert_eq!(outcome.operations, 100);
}

#[test]
fn connections_are_counted() {
    let outcome = Job::Connections { parallel: 4, limit: SHORT }.run(server()).unwrap();
    assert!(outcome.operations > 10 && outcome.failures == 0, "{outcome:?}");
}

#[test]
fn connections_that_all_fail_fail_the_job() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Job::Connections { parallel: 4, limit: SHORT }.run(closed).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn bulk_bytes_are_counted_at_both_ends() {
    for direction in [Direction::Up, Direction::Down] {
        let outcome = Job::Bulk { streams: 3, direction, limit: SHORT }.run(server()).unwrap();
        assert!(outcome.bytes > 1 << 20, "{outcome:?}");
    }
}

#[test]
fn bulk_is_bounded_in_count() {
    let limit = Limit { time: Duration::from_secs(60), count: 1 << 20 };
    let outcome = Job::Bulk { streams: 2, direction: Direction::Down, limit }.run(server()).unwrap();
    assert_eq!(outcome.bytes, 2 << 20);
}

#[test]
fn a_bulk_stream_that_is_cut_is_an_error() {
    let cut = cutting_proxy(server(), 100_000);
    let error = Job::Bulk { streams: 1, direction: Direction::Down, limit: SHORT }.run(cut).unwrap_err();
    assert!(error.to_string().contains("lost bytes"), "{error}");
}

#[test]
fn a_single_connection_has_one_latency() {
    let outcome = Job::Once.run(server()).unwrap();
    assert_eq!((outcome.operations, outcome.bytes), (1, 1024));
    assert_eq!(outcome.p50, outcome.p99);
    let error = Job::Once.run(cutting_proxy(server(), 100)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
}

#[test]
fn idle_connections_stand_until_they_are_cut() {
    let (held, trouble) = hold::open(server(), 5);
    assert!(held.len() == 5 && trouble.is_none(), "{trouble:?}");
    assert_eq!(hold::lost(&held).unwrap(), 0);
    held[2].shutdown(Shutdown::Both).unwrap();
    assert_eq!(hold::lost(&held).unwrap(), 1);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (held, trouble) = hold::open(closed, 5);
    assert!(held.is_empty() && trouble.is_some());
}
