//! What reaches the pod: plaintext comes to us first, tunnels to their port, and the application sees its true client.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{BuildHasher, BuildHasherDefault},
    io::ErrorKind,
    net::{Shutdown, SocketAddr, TcpListener},
};

use aquifer_sys::{
    link::{Links, Via, sysctl},
    rules::Mode,
    socket::{Listen, connect_socket, reset_on_close},
};

use crate::{
    Test,
    bed::{
        Bed, Family, PORT, Proxy, accept, assert_ended, assert_nobody, assert_refused, assert_reset, call,
        call_from, connected, exchange, is_settled, namespace, serve, wait,
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("what_the_pod_forwards_is_let_alone", what_the_pod_forwards_is_let_alone),
    ("plaintext_comes_to_us_and_not_to_the_application", plaintext_comes_to_us_and_not_to_the_application),
    ("without_listeners_callers_are_refused", without_listeners_callers_are_refused),
    ("tunnels_reach_our_listener_and_no_other", tunnels_reach_our_listener_and_no_other),
    ("the_capturing_ports_cannot_be_called", the_capturing_ports_cannot_be_called),
    (
        "the_application_sees_its_client_and_its_answers_come_to_us",
        the_application_sees_its_client_and_its_answers_come_to_us,
    ),
    ("answers_come_to_us_where_sockets_inherit_marks", answers_come_to_us_where_sockets_inherit_marks),
    (
        "a_connection_that_follows_one_in_time_wait_comes_to_us",
        a_connection_that_follows_one_in_time_wait_comes_to_us,
    ),
    ("source_ports_that_are_to_be_avoided_are", source_ports_that_are_to_be_avoided_are),
    (
        "one_client_has_thousands_of_connections_to_one_port",
        one_client_has_thousands_of_connections_to_one_port,
    ),
];

fn plaintext_comes_to_us_and_not_to_the_application() {
    let bed = Bed::new();
    let server = serve(&bed.pod, PORT);
    let proxy = Proxy::new(&bed.pod);
    for mode in [Mode::CaptureNew, Mode::Capture { standing: Vec::new() }] {
        bed.lay(mode);
        for family in Family::BOTH {
            let to = SocketAddr::new(family.pod(), PORT);
            let client = call(&bed.host, to).unwrap();
            let accepted = proxy.accept(Listen::Inbound);
            assert_eq!(accepted.local, to);
            assert_eq!(accepted.peer, client.local_addr().unwrap());
            exchange(&client, &accepted.stream);
            client.shutdown(Shutdown::Write).unwrap();
            assert_ended(&accepted.stream);
            reset_on_close(&accepted.stream, false).unwrap();
            drop(accepted);
            assert_ended(&client);
            // Where no application listens, nor do we: a TCP probe must not pass.
            assert_refused(call(&bed.host, (family.pod(), PORT + 1)));
        }
    }
    assert_nobody(&server);
    proxy.assert_idle();
}

fn without_listeners_callers_are_refused() {
    let bed = Bed::new();
    let server = serve(&bed.pod, PORT);
    for mode in [Mode::Capture { standing: Vec::new() }, Mode::CaptureNew] {
        bed.lay(mode);
        for family in Family::BOTH {
            for port in [PORT, PORT + 1].into_iter().chain(Listen::ALL.map(Listen::port)) {
                assert_refused(call(&bed.host, (family.pod(), port)));
            }
        }
    }
    // A proxy that has gone leaves its connections reset, and the callers after it refused.
    bed.lay(Mode::Capture { standing: Vec::new() });
    let proxy = Proxy::new(&bed.pod);
    for family in Family::BOTH {
        let client = call(&bed.host, (family.pod(), PORT)).unwrap();
        drop(proxy.accept(Listen::Inbound));
        assert_reset(&client);
    }
    drop(proxy);
    for family in Family::BOTH {
        assert_refused(call(&bed.host, (family.pod(), PORT)));
    }
    assert_nobody(&server);
}

fn tunnels_reach_our_listener_and_no_other() {
    let (bed, proxy) = Bed::captured();
    let port = Listen::Hbone.port();
    for family in Family::BOTH {
        let peer = call(&bed.host, (family.pod(), port)).unwrap();
        let accepted = proxy.accept(Listen::Hbone);
        exchange(&peer, &accepted.stream);
        // Whichever end closes first: our TIME-WAIT stands in nobody's way.
        let from = peer.local_addr().unwrap();
        accepted.stream.shutdown(Shutdown::Write).unwrap();
        assert_ended(&peer);
        drop(peer);
        assert_ended(&accepted.stream);
        drop(accepted);
        let again = call_from(&bed.host, from.port(), (family.pod(), port).into()).unwrap();
        exchange(&again, &proxy.accept(Listen::Hbone).stream);
    }
    proxy.assert_idle();
    drop(proxy);
    // The application took the port while we were away.
    let foreign = serve(&bed.pod, port);
    for family in Family::BOTH {
        assert_refused(call(&bed.host, (family.pod(), port)));
    }
    assert_nobody(&foreign);
}

fn the_capturing_ports_cannot_be_called() {
    let (bed, proxy) = Bed::captured();
    for family in Family::BOTH {
        for listener in [Listen::Outbound, Listen::Inbound] {
            assert_refused(call(&bed.host, (family.pod(), listener.port())));
        }
    }
    proxy.assert_idle();
}

/// A pod may route for others, as one that runs containers or a virtual private network does.
fn what_the_pod_forwards_is_let_alone() {
    let (bed, proxy) = Bed::captured();
    let beyond = namespace();
    let (in_pod, links) = (Links::open(&bed.pod).unwrap(), Links::open(&beyond).unwrap());
    in_pod.veth("eth1", &beyond, "eth0").unwrap();
    for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
        let (near, far) = family.beyond();
        in_pod.address("eth1", near, prefix).unwrap();
        links.address("eth0", far, prefix).unwrap();
    }
    in_pod.up("eth1").unwrap();
    links.up("eth0").unwrap();
    wait("the cable to carry", || is_settled(&bed.pod, "eth1") && is_settled(&beyond, "eth0"));
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        sysctl(&bed.pod, key, "1").unwrap();
    }
    for (family, prefix) in [(Family::V4, 32), (Family::V6, 128)] {
        let (near, far) = family.beyond();
        links.route(family.host(), prefix, Via::Gateway(near)).unwrap();
        Links::open(&bed.host).unwrap().route(far, prefix, Via::Gateway(family.pod())).unwrap();
    }
    let server = serve(&beyond, PORT);
    for family in Family::BOTH {
        let client = call(&bed.host, (family.beyond().1, PORT)).unwrap();
        exchange(&client, &accept(&server).0);
        // What the pod itself sends there is captured all the same.
        let application = call(&bed.pod, (family.beyond().1, PORT)).unwrap();
        exchange(&application, &proxy.accept(Listen::Outbound).stream);
    }
    proxy.assert_idle();
}

fn the_application_sees_its_client_and_its_answers_come_to_us() {
    let (bed, proxy) = Bed::captured();
    let server = serve(&bed.pod, PORT);
    let mut witness = bed.witness();
    for family in Family::BOTH {
        let to = SocketAddr::new(family.pod(), PORT);
        // A client beyond the host, whom no route knows as local.
        for client in [family.host(), family.service()] {
            let ours = connected(connect_socket(&bed.pod, to, Some(client), &|_| false).unwrap()).unwrap();
            let (application, peer) = accept(&server);
            assert_eq!(peer, ours.local_addr().unwrap());
            assert_eq!(peer.ip(), client);
            exchange(&ours, &application);
            // Its end, and one of ours that it has to acknowledge, cross neither.
            application.shutdown(Shutdown::Write).unwrap();
            assert_ended(&ours);
            drop(ours);
            assert_ended(&application);

            let ours = connected(connect_socket(&bed.pod, to, Some(client), &|_| false).unwrap()).unwrap();
            let (application, _) = accept(&server);
            reset_on_close(&application, true).unwrap();
            drop(application);
            assert_reset(&ours);

            let closed = SocketAddr::new(family.pod(), PORT + 1);
            assert_refused(connect_socket(&bed.pod, closed, Some(client), &|_| false).and_then(connected));
        }
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let error = connect_socket(&bed.pod, to, Some(other.host()), &|_| false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(witness.packets(), []);
    proxy.assert_idle();
}

/// As a pod that routes by marks itself has it.
fn answers_come_to_us_where_sockets_inherit_marks() {
    let (bed, _proxy) = Bed::captured();
    sysctl(&bed.pod, "net.ipv4.tcp_fwmark_accept", "1").unwrap();
    let server = serve(&bed.pod, PORT);
    let mut witness = bed.witness();
    for family in Family::BOTH {
        let to = SocketAddr::new(family.pod(), PORT);
        let ours =
            connect_socket(&bed.pod, to, Some(family.service()), &|_| false).and_then(connected).unwrap();
        exchange(&ours, &accept(&server).0);
    }
    assert_eq!(witness.packets(), []);
}

/// The kernel gives a SYN for a socket in TIME-WAIT to whoever listens on the port it was sent to: the application.
fn a_connection_that_follows_one_in_time_wait_comes_to_us() {
    let (bed, proxy) = Bed::captured();
    let server = serve(&bed.pod, PORT);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.pod(), PORT);
        let client = call(&bed.host, to).unwrap();
        let port = client.local_addr().unwrap().port();
        let accepted = proxy.accept(Listen::Inbound);
        reset_on_close(&accepted.stream, false).unwrap();
        drop(accepted);
        assert_ended(&client);
        drop(client);
        let again = call_from(&bed.host, port, to).unwrap();
        exchange(&again, &proxy.accept(Listen::Inbound).stream);
    }
    assert_nobody(&server);
}

fn source_ports_that_are_to_be_avoided_are() {
    let (bed, proxy) = Bed::captured();
    let server = serve(&bed.pod, PORT);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.pod(), PORT);
        // Nine of ten, without a pattern that the order of the probes might have, too.
        let only = |port: u16| BuildHasherDefault::<DefaultHasher>::new().hash_one(port) % 10 != 4;
        let ours = connected(connect_socket(&bed.pod, to, Some(family.host()), &only).unwrap()).unwrap();
        let port = ours.local_addr().unwrap().port();
        assert!(!only(port) && port > 60_999, "{port}");
        let (application, _) = accept(&server);
        exchange(&ours, &application);
        let error = connect_socket(&bed.pod, to, Some(family.host()), &|_| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        // The client's own plaintext connection from any other port is in nobody's way.
        let plain = call(&bed.host, to).unwrap();
        let accepted = proxy.accept(Listen::Inbound);
        let held = accepted.peer.port();
        let ours = connect_socket(&bed.pod, to, Some(family.host()), &|port| port == held)
            .and_then(connected)
            .unwrap();
        exchange(&ours, &accept(&server).0);
        exchange(&plain, &accepted.stream);
    }
}

fn one_client_has_thousands_of_connections_to_one_port() {
    let (bed, _proxy) = Bed::captured();
    aquifer_sys::process::raise_nofile().unwrap();
    let listen = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(Family::V4.pod(), PORT).into())?;
        socket.listen(4096)?;
        Ok(TcpListener::from(socket))
    };
    let server = bed.pod.run(listen).unwrap();
    let to = SocketAddr::new(Family::V4.pod(), PORT);
    let mut held = Vec::new();
    let mut ports = HashSet::new();
    // More than there are ports above the range, so that all groups are drawn on.
    for _ in 0..6000 {
        let ours = connect_socket(&bed.pod, to, Some(Family::V4.host()), &|port| port % 100 == 7).unwrap();
        let ours = connected(ours).unwrap();
        let port = ours.local_addr().unwrap().port();
        assert!(port % 100 != 7 && ports.insert(port));
        held.push((ours, accept(&server).0));
    }
    for (ours, application) in &held {
        exchange(ours, application);
    }
}
