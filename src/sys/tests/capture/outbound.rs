//! What the pod sends: captured but for our own sockets and calls to itself, and refused where nobody listens.

use std::net::{IpAddr, SocketAddr};

use aquifer_sys::{
    link::{self, Links, Via},
    rules::Mode,
    socket::{Listen, connect_socket, reset_on_close},
};

use socket2::{Domain, Socket, Type};

use crate::{
    Test,
    bed::{
        Bed, Family, PORT, Proxy, accept, assert_ended, assert_nobody, assert_refused, assert_reset, call,
        call_from, connected, exchange, serve, wait,
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_call_arrives_with_its_destination_and_nothing_leaves",
        a_call_arrives_with_its_destination_and_nothing_leaves,
    ),
    (
        "calls_to_the_proxys_ports_are_captured_like_others",
        calls_to_the_proxys_ports_are_captured_like_others,
    ),
    ("without_listeners_calls_are_refused", without_listeners_calls_are_refused),
    ("without_routes_nothing_leaves_in_clear", without_routes_nothing_leaves_in_clear),
    ("our_own_sockets_leave", our_own_sockets_leave),
    ("calls_to_the_pod_itself_are_let_alone", calls_to_the_pod_itself_are_let_alone),
    ("a_reset_by_the_application_reaches_us", a_reset_by_the_application_reaches_us),
    ("capture_outlives_connection_tracking", capture_outlives_connection_tracking),
];

fn a_call_arrives_with_its_destination_and_nothing_leaves() {
    let (bed, proxy) = Bed::captured();
    let mut witness = bed.witness();
    for family in Family::BOTH {
        // One that nobody has, and one with a server that would answer.
        let server = serve(&bed.host, PORT);
        for address in [family.service(), family.host()] {
            let to = SocketAddr::new(address, PORT);
            let application = call(&bed.pod, to).unwrap();
            let accepted = proxy.accept(Listen::Outbound);
            assert_eq!(accepted.local, to);
            assert_eq!(accepted.peer, application.local_addr().unwrap());
            assert_eq!(accepted.peer.ip(), family.pod());
            exchange(&application, &accepted.stream);
            // Half-close, and an answer after it.
            application.shutdown(std::net::Shutdown::Write).unwrap();
            assert_ended(&accepted.stream);
            reset_on_close(&accepted.stream, false).unwrap();
            drop(accepted);
            assert_ended(&application);
        }
        assert_nobody(&server);
    }
    assert_eq!(witness.packets(), []);
    proxy.assert_idle();
}

fn calls_to_the_proxys_ports_are_captured_like_others() {
    let (bed, proxy) = Bed::captured();
    for family in Family::BOTH {
        for port in Listen::ALL.map(Listen::port) {
            let to = SocketAddr::new(family.host(), port);
            let application = call(&bed.pod, to).unwrap();
            let accepted = proxy.accept(Listen::Outbound);
            assert_eq!(accepted.local, to);
            exchange(&application, &accepted.stream);
        }
    }
}

fn without_listeners_calls_are_refused() {
    let bed = Bed::new();
    // A server in the pod on the same port: what is not captured must not fall to it.
    let (own, server) = (serve(&bed.pod, PORT), serve(&bed.host, PORT));
    for mode in [Mode::Capture { standing: Vec::new() }, Mode::CaptureNew] {
        bed.lay(mode);
        let mut witness = bed.witness();
        for family in Family::BOTH {
            for address in [family.service(), family.host()] {
                assert_refused(call(&bed.pod, (address, PORT)));
            }
        }
        assert_eq!(witness.packets(), []);
    }
    // A proxy that has gone leaves its connections refused too.
    bed.lay(Mode::Capture { standing: Vec::new() });
    let proxy = Proxy::new(&bed.pod);
    let application = call(&bed.pod, (Family::V4.host(), PORT)).unwrap();
    let mut witness = bed.witness();
    drop(proxy.accept(Listen::Outbound));
    assert_reset(&application);
    assert_eq!(witness.packets(), []);
    assert_nobody(&own);
    assert_nobody(&server);
}

fn without_routes_nothing_leaves_in_clear() {
    let (bed, proxy) = Bed::captured();
    let server = serve(&bed.host, PORT);
    let mut witness = bed.witness();
    crate::table::delete_routes(&bed.pod);
    crate::table::delete_early_route(&bed.pod);
    for family in Family::BOTH {
        let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let open = || Socket::new(domain, Type::STREAM.nonblocking(), None);
        let application = bed.pod.run(open).unwrap();
        application.connect(&SocketAddr::new(family.host(), PORT).into()).unwrap_err();
    }
    assert_eq!(witness.packets(), []);
    assert_nobody(&server);
    proxy.assert_idle();
}

fn our_own_sockets_leave() {
    let (bed, proxy) = Bed::captured();
    let server = serve(&bed.host, PORT);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.host(), PORT);
        let ours = connected(connect_socket(&bed.pod, to, None, &|_| false).unwrap()).unwrap();
        let (theirs, peer) = accept(&server);
        assert_eq!(peer.ip(), family.pod());
        exchange(&ours, &theirs);
        // Our end goes through TIME-WAIT, where a late packet of the other still finds it.
        drop(ours);
        assert_ended(&theirs);
        drop(theirs);
        let nobody = SocketAddr::new(family.host(), PORT + 1);
        let refused = connect_socket(&bed.pod, nobody, None, &|_| false).and_then(connected);
        assert_refused(refused);
    }
    proxy.assert_idle();
}

fn calls_to_the_pod_itself_are_let_alone() {
    let (bed, proxy) = Bed::captured();
    let server = serve(&bed.pod, PORT);
    let mut witness = bed.witness();
    let loopback =
        [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 9, 9, 9]), std::net::Ipv6Addr::LOCALHOST.into()];
    for address in Family::BOTH.map(Family::pod).into_iter().chain(loopback) {
        let client = call(&bed.pod, (address, PORT)).unwrap();
        let (application, _) = accept(&server);
        exchange(&client, &application);
        assert_refused(call(&bed.pod, (address, PORT + 1)));
    }
    assert_eq!(witness.packets(), []);
    proxy.assert_idle();
}

fn a_reset_by_the_application_reaches_us() {
    let (bed, proxy) = Bed::captured();
    let mut witness = bed.witness();
    for family in Family::BOTH {
        let application = call(&bed.pod, (family.service(), PORT)).unwrap();
        let accepted = proxy.accept(Listen::Outbound);
        reset_on_close(&application, true).unwrap();
        drop(application);
        assert_reset(&accepted.stream);
        // And what we send to a socket that is gone is answered with one.
        let application = call(&bed.pod, (family.service(), PORT)).unwrap();
        let accepted = proxy.accept(Listen::Outbound);
        let port = application.local_addr().unwrap().port();
        drop(application);
        assert_ended(&accepted.stream);
        std::io::Write::write_all(&mut &accepted.stream, b"too late").unwrap();
        wait("the reset", || std::io::Write::write_all(&mut &accepted.stream, b"x").is_err());
        // The 4-tuple is free again.
        let application = call_from(&bed.pod, port, (family.service(), PORT).into()).unwrap();
        exchange(&application, &proxy.accept(Listen::Outbound).stream);
    }
    assert_eq!(witness.packets(), []);
}

/// A half-closed connection whose entry in the pod's connection tracking has run out still is ours.
fn capture_outlives_connection_tracking() {
    let bed = Bed::new();
    crate::table::track_connections(&bed.pod);
    let proxy = Proxy::new(&bed.pod);
    bed.lay(Mode::Capture { standing: Vec::new() });
    for state in ["established", "fin_wait", "close_wait", "close", "max_retrans"] {
        link::sysctl(&bed.pod, &format!("net.netfilter.nf_conntrack_tcp_timeout_{state}"), "1").unwrap();
    }
    // The route is there and leads nowhere: what leaves is seen, and never answered.
    Links::open(&bed.host).unwrap().route(IpAddr::from([10, 96, 0, 0]), 16, Via::Blackhole).unwrap();
    let mut witness = bed.witness();
    for family in Family::BOTH {
        let application = call(&bed.pod, (family.service(), PORT)).unwrap();
        let accepted = proxy.accept(Listen::Outbound);
        exchange(&application, &accepted.stream);
        accepted.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_ended(&application);
        assert!(crate::table::tracked(&bed.pod) > 0);
        wait("the entries to run out", || crate::table::tracked(&bed.pod) == 0);
        for text in [b"after", b"again"] {
            std::io::Write::write_all(&mut &application, text).unwrap();
            let mut received = [0; 5];
            std::io::Read::read_exact(&mut &accepted.stream, &mut received).unwrap();
            assert_eq!(&received, text);
        }
    }
    assert_eq!(witness.packets(), []);
}
