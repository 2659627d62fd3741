//! Enrolment and un-enrolment of a running pod: no connection breaks, none is captured or let go against the rule.

use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use aquifer_sys::{
    NetNs, diag,
    rules::{self, FourTuple, Standing},
    socket::{Accepted, Listen, connect_socket, reset_on_close},
};

use crate::{
    Test,
    bed::{
        Bed, DEADLINE, Family, PORT, Proxy, accept, assert_nobody, assert_reset, call, call_from, connected,
        exchange, send, serve, wait,
    },
    table::silent,
};

pub(crate) const TESTS: &[Test] = &[
    ("what_stood_before_survives_and_is_not_captured", what_stood_before_survives_and_is_not_captured),
    (
        "the_next_connection_on_an_exempt_four_tuple_is_captured",
        the_next_connection_on_an_exempt_four_tuple_is_captured,
    ),
    ("a_connect_under_way_at_enrolment_succeeds", a_connect_under_way_at_enrolment_succeeds),
    ("what_is_carried_stays_with_us_when_the_pod_leaves", what_is_carried_stays_with_us_when_the_pod_leaves),
    ("enrolment_goes_on_from_whatever_stands", enrolment_goes_on_from_whatever_stands),
    ("a_standing_connection_can_be_ended", a_standing_connection_can_be_ended),
    (
        "no_connection_breaks_under_a_pod_that_comes_and_goes",
        no_connection_breaks_under_a_pod_that_comes_and_goes,
    ),
];

fn tuple_of(application: &TcpStream) -> FourTuple {
    let unmapped = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    FourTuple {
        local: unmapped(application.local_addr().unwrap()),
        remote: unmapped(application.peer_addr().unwrap()),
    }
}

fn sorted(mut tuples: Vec<FourTuple>) -> Vec<FourTuple> {
    tuples.sort_unstable();
    tuples
}

fn what_stood_before_survives_and_is_not_captured() {
    let bed = Bed::new();
    let (in_pod, on_host) = (serve(&bed.pod, PORT), serve(&bed.host, PORT));
    let proxy = Proxy::new(&bed.pod);
    let mut pairs = Vec::new();
    let mut stood = Vec::new();
    for family in Family::BOTH {
        let out = call(&bed.pod, (family.host(), PORT)).unwrap();
        let far = accept(&on_host).0;
        stood.push(tuple_of(&out));
        pairs.push((out, far));
        let far = call(&bed.host, (family.pod(), PORT)).unwrap();
        let inner = accept(&in_pod).0;
        stood.push(tuple_of(&inner));
        pairs.push((inner, far));
        // To itself: nobody's business.
        let own = call(&bed.pod, (family.pod(), PORT)).unwrap();
        pairs.push((own, accept(&in_pod).0));
    }
    assert_eq!(sorted(rules::enrol(&bed.pod, 1).unwrap()), sorted(stood.clone()));
    for (near, far) in &pairs {
        exchange(near, far);
        exchange(far, near);
    }
    proxy.assert_idle();
    for family in Family::BOTH {
        let out = call(&bed.pod, (family.host(), PORT)).unwrap();
        exchange(&out, &proxy.accept(Listen::Outbound).stream);
        let far = call(&bed.host, (family.pod(), PORT)).unwrap();
        exchange(&far, &proxy.accept(Listen::Inbound).stream);
    }
    assert_nobody(&in_pod);
    assert_nobody(&on_host);
    // They leave the set as they end; half-closed is not ended.
    for (near, _) in &pairs {
        near.shutdown(Shutdown::Write).unwrap();
    }
    assert_eq!(sorted(rules::refresh(&bed.pod, 1).unwrap().unwrap()), sorted(stood));
    assert_eq!(rules::refresh(&bed.pod, 2).unwrap(), None);
    let mut rest = pairs.split_off(1);
    drop(pairs);
    let first = rest.remove(0);
    wait("the first to end", || rules::refresh(&bed.pod, 1).unwrap().unwrap().len() == 3);
    send(&first.1, &first.0);
    drop((first, rest));
    wait("all to end", || rules::refresh(&bed.pod, 1).unwrap().unwrap().is_empty());
    let Standing::Present(found) = rules::inspect(&bed.pod).unwrap() else { panic!("no table") };
    assert!(found.intact(), "{found:?}");
    assert_eq!(found.mode, Some(rules::Mode::Capture { standing: Vec::new() }));
}

fn the_next_connection_on_an_exempt_four_tuple_is_captured() {
    let bed = Bed::new();
    let (in_pod, on_host) = (serve(&bed.pod, PORT), serve(&bed.host, PORT));
    let proxy = Proxy::new(&bed.pod);
    for family in Family::BOTH {
        rules::remove(&bed.pod, None).unwrap();
        let out = call(&bed.pod, (family.host(), PORT)).unwrap();
        let far = call(&bed.host, (family.pod(), PORT)).unwrap();
        let (out_far, far_in) = (accept(&on_host).0, accept(&in_pod).0);
        let (out_port, far_port) = (out.local_addr().unwrap().port(), far.local_addr().unwrap().port());
        assert_eq!(rules::enrol(&bed.pod, 1).unwrap().len(), 2);
        // Ended without a trace, and the set not refreshed yet.
        for socket in [&out, &far] {
            reset_on_close(socket, true).unwrap();
        }
        drop((out, far));
        assert_reset(&out_far);
        assert_reset(&far_in);
        let out = call_from(&bed.pod, out_port, (family.host(), PORT).into()).unwrap();
        let taken = proxy.accept(Listen::Outbound);
        assert_eq!(taken.peer.port(), out_port);
        let far = call_from(&bed.host, far_port, (family.pod(), PORT).into()).unwrap();
        let taken_in = proxy.accept(Listen::Inbound);
        assert_eq!(taken_in.peer.port(), far_port);
        exchange(&out, &taken.stream);
        exchange(&far, &taken_in.stream);
    }
    assert_nobody(&in_pod);
    assert_nobody(&on_host);
}

/// The first SYN was lost: it is repeated after a second, when the pod is captured already.
fn a_connect_under_way_at_enrolment_succeeds() {
    let bed = Bed::new();
    let server = serve(&bed.host, PORT);
    let proxy = Proxy::new(&bed.pod);
    let clients: Vec<_> = silent(&bed.host, PORT, || {
        let start = |family: Family| {
            let socket = bed.pod.run(|| {
                let domain = if family == Family::V4 { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
                socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None)
            });
            let socket = socket.unwrap();
            let started = socket.connect(&SocketAddr::new(family.host(), PORT).into());
            assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
            TcpStream::from(socket)
        };
        let clients = Family::BOTH.map(start);
        assert_eq!(rules::enrol(&bed.pod, 1).unwrap().len(), 2);
        clients.into()
    });
    // In whichever order they come.
    let mut accepted = clients.iter().map(|_| accept(&server)).collect::<Vec<_>>();
    for client in clients {
        let client = connected(client).unwrap();
        let of_client = |(_, peer): &(TcpStream, SocketAddr)| *peer == tuple_of(&client).local;
        let index = accepted.iter().position(of_client).unwrap();
        exchange(&client, &accepted.swap_remove(index).0);
    }
    proxy.assert_idle();
}

fn what_is_carried_stays_with_us_when_the_pod_leaves() {
    let bed = Bed::new();
    let (in_pod, on_host) = (serve(&bed.pod, PORT), serve(&bed.host, PORT));
    let proxy = Proxy::new(&bed.pod);
    let mut stood = Vec::new();
    for family in Family::BOTH {
        let out = call(&bed.pod, (family.host(), PORT)).unwrap();
        stood.push((out, accept(&on_host).0));
    }
    rules::enrol(&bed.pod, 1).unwrap();
    let mut carried = Vec::new();
    let mut tuples = Vec::new();
    for family in Family::BOTH {
        let out = call(&bed.pod, (family.host(), PORT)).unwrap();
        tuples.push(tuple_of(&out));
        carried.push((out, proxy.accept(Listen::Outbound).stream));
        let far = call(&bed.host, (family.pod(), PORT)).unwrap();
        let accepted = proxy.accept(Listen::Inbound);
        let ours = connect_socket(&bed.pod, accepted.local, Some(accepted.peer.ip()), &|_| false).unwrap();
        let ours = connected(ours).unwrap();
        let application = accept(&in_pod).0;
        tuples.push(tuple_of(&application));
        carried.push((far, accepted.stream));
        carried.push((application, ours));
    }
    assert_eq!(rules::leave(&bed.pod, 2).unwrap(), None);
    assert_eq!(sorted(rules::leave(&bed.pod, 1).unwrap().unwrap()), sorted(tuples.clone()));
    assert_eq!(sorted(rules::leave(&bed.pod, 1).unwrap().unwrap()), sorted(tuples.clone()));
    let mut witness = bed.witness();
    for (a, b) in carried.iter().filter(|(a, _)| tuples.contains(&tuple_of(a))) {
        exchange(a, b);
        exchange(b, a);
    }
    assert_eq!(witness.packets(), []);
    for (a, b) in carried.iter().chain(&stood) {
        exchange(a, b);
    }
    // One that came in before and is opened to the application only now.
    let late =
        connect_socket(&bed.pod, (Family::V4.pod(), PORT).into(), Some(Family::V4.service()), &|_| false)
            .unwrap();
    let late = connected(late).unwrap();
    let application = accept(&in_pod).0;
    exchange(&late, &application);
    assert_eq!(rules::refresh(&bed.pod, 1).unwrap().unwrap().len(), tuples.len() + 1);
    // What begins now is nobody's but the application's.
    for family in Family::BOTH {
        let out = call(&bed.pod, (family.host(), PORT)).unwrap();
        exchange(&out, &accept(&on_host).0);
        let far = call(&bed.host, (family.pod(), PORT)).unwrap();
        exchange(&far, &accept(&in_pod).0);
    }
    proxy.assert_idle();
    drop((carried, late, application));
    wait("all to end", || rules::refresh(&bed.pod, 1).unwrap().unwrap().is_empty());
    assert!(rules::remove(&bed.pod, Some(1)).unwrap());
    for (a, b) in &stood {
        exchange(a, b);
    }
}

fn enrolment_goes_on_from_whatever_stands() {
    let bed = Bed::new();
    let on_host = serve(&bed.host, PORT);
    let proxy = Proxy::new(&bed.pod);
    let to = SocketAddr::new(Family::V4.host(), PORT);
    let before = call(&bed.pod, to).unwrap();
    let before = (before, accept(&on_host).0);
    assert_eq!(rules::enrol(&bed.pod, 1).unwrap(), [tuple_of(&before.0)]);
    let ours = call(&bed.pod, to).unwrap();
    let ours = (ours, proxy.accept(Listen::Outbound).stream);
    let check = |captured: &[&(TcpStream, TcpStream)]| {
        let mut witness = bed.witness();
        for (a, b) in captured {
            exchange(a, b);
        }
        assert_eq!(witness.packets(), []);
        exchange(&before.0, &before.1);
        assert!(!witness.packets().is_empty());
    };
    // Again, as a process that was started anew does.
    assert_eq!(rules::enrol(&bed.pod, 2).unwrap(), [tuple_of(&before.0)]);
    check(&[&ours]);
    // The pod was about to leave, and comes back.
    assert_eq!(rules::leave(&bed.pod, 2).unwrap().unwrap(), [tuple_of(&ours.0)]);
    let between = call(&bed.pod, to).unwrap();
    let between = (between, accept(&on_host).0);
    let expected = sorted(vec![tuple_of(&before.0), tuple_of(&between.0)]);
    assert_eq!(sorted(rules::enrol(&bed.pod, 3).unwrap()), expected);
    check(&[&ours]);
    exchange(&between.0, &between.1);
    // The last attempt ended half-way, in either direction.
    for mode in [
        rules::Mode::LeaveNew { standing: expected.clone() },
        rules::Mode::Leave { carried: vec![tuple_of(&ours.0)] },
    ] {
        bed.lay(mode);
        assert_eq!(sorted(rules::enrol(&bed.pod, 4).unwrap()), expected);
        check(&[&ours]);
    }
}

fn a_standing_connection_can_be_ended() {
    let bed = Bed::new();
    let on_host = serve(&bed.host, PORT);
    for family in Family::BOTH {
        let out = call(&bed.pod, (family.host(), PORT)).unwrap();
        let far = accept(&on_host).0;
        let standing = rules::enrol(&bed.pod, 1).unwrap();
        assert_eq!(standing, [tuple_of(&out)]);
        let listed = diag::tcp_sockets(&bed.pod).unwrap();
        let socket = listed.iter().find(|socket| socket.four_tuple() == standing[0]).unwrap();
        assert_eq!((socket.state, socket.is_ours()), (diag::State::Established, false));
        assert!(diag::destroy(&bed.pod, &standing[0]).unwrap());
        assert!(!diag::destroy(&bed.pod, &standing[0]).unwrap());
        assert_reset(&far);
        let error = io::Read::read(&mut &out, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        rules::remove(&bed.pod, None).unwrap();
    }
}

/// Echoes whatever each caller sends.
fn echo(listener: TcpListener) {
    listener.set_nonblocking(false).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
}

/// Carries a connection on to where it was going.
fn carry(pod: &NetNs, accepted: Accepted, from: Option<IpAddr>) {
    let onward = connect_socket(pod, accepted.local, from, &|port| port == accepted.peer.port()).unwrap();
    thread::spawn(move || {
        let onward = connected(onward).unwrap();
        let pump = |mut from: &TcpStream, mut to: &TcpStream| {
            io::copy(&mut from, &mut to).unwrap();
            to.shutdown(Shutdown::Write).unwrap();
        };
        thread::scope(|scope| {
            scope.spawn(|| pump(&onward, &accepted.stream));
            pump(&accepted.stream, &onward);
        });
        reset_on_close(&accepted.stream, false).unwrap();
    });
}

fn no_connection_breaks_under_a_pod_that_comes_and_goes() {
    let bed = Bed::new();
    echo(serve(&bed.pod, PORT));
    echo(serve(&bed.host, PORT));
    let proxy = Arc::new(Proxy::new(&bed.pod));
    let carried = Arc::new(AtomicU32::new(0));
    for (which, spoof) in [(Listen::Outbound, false), (Listen::Inbound, true)] {
        let (proxy, pod, carried) = (Arc::clone(&proxy), bed.pod.clone(), Arc::clone(&carried));
        thread::spawn(move || {
            loop {
                let accepted = proxy.accept_patiently(which);
                let from = spoof.then(|| accepted.peer.ip());
                carried.fetch_add(1, Ordering::Relaxed);
                carry(&pod, accepted, from);
            }
        });
    }
    let done = AtomicBool::new(false);
    let calls = AtomicU32::new(0);
    thread::scope(|scope| {
        for (from, to) in [
            (&bed.pod, Family::V4.host()),
            (&bed.pod, Family::V6.host()),
            (&bed.host, Family::V4.pod()),
            (&bed.host, Family::V6.pod()),
        ] {
            let (done, calls) = (&done, &calls);
            scope.spawn(move || {
                let mut long = call(from, (to, PORT)).unwrap();
                while !done.load(Ordering::Relaxed) {
                    let stream = call(from, (to, PORT)).unwrap();
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    for text in [b"ping", b"pong"] {
                        for mut stream in [&stream, &long] {
                            io::Write::write_all(&mut stream, text).unwrap();
                            let mut received = [0; 4];
                            io::Read::read_exact(&mut stream, &mut received).unwrap();
                            assert_eq!(&received, text);
                        }
                    }
                    let count = calls.fetch_add(1, Ordering::Relaxed);
                    // Now and then the long one is another, so that some stood before and some did not.
                    if count.is_multiple_of(16) {
                        long = stream;
                    }
                }
            });
        }
        let finish = Finish(&done);
        for generation in 0..8 {
            rules::enrol(&bed.pod, generation).unwrap();
            let seen = (calls.load(Ordering::Relaxed), carried.load(Ordering::Relaxed));
            wait("calls to be carried", || {
                calls.load(Ordering::Relaxed) > seen.0 + 10 && carried.load(Ordering::Relaxed) > seen.1 + 4
            });
            rules::leave(&bed.pod, generation).unwrap().unwrap();
            let seen = calls.load(Ordering::Relaxed);
            wait("calls to pass", || calls.load(Ordering::Relaxed) > seen + 10);
            rules::refresh(&bed.pod, generation).unwrap().unwrap();
        }
        drop(finish);
    });
}

/// Ends the callers, also when the test fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
