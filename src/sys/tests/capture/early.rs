//! Capture at the socket: where it stands, that it is what captures, and that it takes nothing else.

use std::net::SocketAddr;

use aquifer_sys::{
    NetNs,
    link::{Links, sysctl},
    rules::{self, FourTuple, Mode, Standing},
    socket::{Listen, connect_socket},
};
use nlink::{Connection, Route, netlink::rule::RuleBuilder};

use crate::{
    Test,
    bed::{Bed, Family, PORT, Proxy, accept, assert_refused, call, connected, exchange, serve},
    table::{delete_early_route, delete_routes, within},
};

pub(crate) const TESTS: &[Test] = &[
    ("sockets_are_captured_without_a_mark", sockets_are_captured_without_a_mark),
    ("while_something_passes_sockets_are_not_captured", while_something_passes_sockets_are_not_captured),
    ("a_pod_with_two_addresses_is_captured_by_marks", a_pod_with_two_addresses_is_captured_by_marks),
    ("the_network_is_heard_where_ways_back_are_checked", the_network_is_heard_where_ways_back_are_checked),
    ("what_is_carried_outlives_the_routing_rule", what_is_carried_outlives_the_routing_rule),
    ("a_changed_routing_rule_is_found", a_changed_routing_rule_is_found),
];

fn faults(ns: &NetNs) -> Vec<String> {
    match rules::inspect(ns).unwrap() {
        Standing::Present(found) => found.faults,
        Standing::Absent => panic!("no table"),
    }
}

fn stands(ns: &NetNs) -> bool {
    within(ns, async || Ok(Connection::<Route>::new()?.get_rules().await?))
        .iter()
        .any(|rule| rule.priority() == 32763)
}

/// Both directions of a pod: a call of its own, and one to it.
fn assert_captured(bed: &Bed, proxy: &Proxy) {
    let application = call(&bed.pod, (Family::V4.service(), PORT)).unwrap();
    let accepted = proxy.accept(Listen::Outbound);
    assert_eq!(accepted.peer, application.local_addr().unwrap());
    assert_eq!(accepted.peer.ip(), Family::V4.pod());
    exchange(&application, &accepted.stream);

    let server = serve(&bed.pod, PORT);
    let to = SocketAddr::new(Family::V4.pod(), PORT);
    let client = Some(Family::V4.service());
    let ours = connected(connect_socket(&bed.pod, to, client, &|_| false).unwrap()).unwrap();
    exchange(&ours, &accept(&server).0);
}

fn sockets_are_captured_without_a_mark() {
    let (bed, proxy) = Bed::captured();
    let mut witness = bed.witness();
    // Packets with the mark have no way any more.
    delete_routes(&bed.pod);
    assert_captured(&bed, &proxy);
    assert_eq!(witness.packets(), []);
}

fn while_something_passes_sockets_are_not_captured() {
    let bed = Bed::new();
    let server = serve(&bed.host, PORT);
    let standing = call(&bed.pod, (Family::V4.host(), PORT)).unwrap();
    let (theirs, remote) = accept(&server);
    let tuple = FourTuple { local: remote, remote: (Family::V4.host(), PORT).into() };

    let proxy = Proxy::new(&bed.pod);
    bed.lay(Mode::Capture { standing: vec![tuple] });
    assert!(!stands(&bed.pod));
    assert_eq!(faults(&bed.pod), [""; 0]);
    exchange(&standing, &theirs);
    assert_captured(&bed, &proxy);

    drop((standing, theirs));
    assert!(rules::set_standing(&bed.pod, 1, &[]).unwrap());
    assert!(stands(&bed.pod));
    assert_eq!(faults(&bed.pod), [""; 0]);
    assert_captured(&bed, &proxy);

    assert!(rules::set_standing(&bed.pod, 1, &[tuple]).unwrap());
    assert!(!stands(&bed.pod));
    assert_eq!(faults(&bed.pod), [""; 0]);
}

fn a_pod_with_two_addresses_is_captured_by_marks() {
    let (bed, proxy) = Bed::captured();
    assert!(stands(&bed.pod));
    Links::open(&bed.pod).unwrap().address("eth0", Family::V4.beyond().0, 24).unwrap();
    assert_eq!(faults(&bed.pod).len(), 1);
    bed.lay(Mode::Capture { standing: Vec::new() });
    assert!(!stands(&bed.pod));
    assert_eq!(faults(&bed.pod), [""; 0]);
    assert_captured(&bed, &proxy);
}

fn the_network_is_heard_where_ways_back_are_checked() {
    let (bed, proxy) = Bed::captured();
    assert!(stands(&bed.pod));
    let _server = serve(&bed.pod, PORT);
    for strictness in ["0", "1", "2"] {
        sysctl(&bed.pod, "net.ipv4.conf.all.rp_filter", strictness).unwrap();
        let client = call(&bed.host, (Family::V4.pod(), PORT)).unwrap();
        exchange(&client, &proxy.accept(Listen::Inbound).stream);
        let tunnel = call(&bed.host, (Family::V4.pod(), Listen::Hbone.port())).unwrap();
        exchange(&tunnel, &proxy.accept(Listen::Hbone).stream);
        assert_refused(call(&bed.host, (Family::V4.pod(), PORT + 1)));
    }
}

fn what_is_carried_outlives_the_routing_rule() {
    let (bed, proxy) = Bed::captured();
    let server = serve(&bed.pod, PORT);
    let application = call(&bed.pod, (Family::V4.service(), PORT)).unwrap();
    let accepted = proxy.accept(Listen::Outbound);
    let to = SocketAddr::new(Family::V4.pod(), PORT);
    let client = Some(Family::V4.service());
    let ours = connected(connect_socket(&bed.pod, to, client, &|_| false).unwrap()).unwrap();
    let (called, _) = accept(&server);
    let mut witness = bed.witness();
    for wanted in [true, false, true] {
        if wanted {
            rules::enrol(&bed.pod, 1).unwrap();
        } else {
            rules::leave(&bed.pod, 1).unwrap();
        }
        assert_eq!(stands(&bed.pod), wanted);
        exchange(&application, &accepted.stream);
        exchange(&ours, &called);
    }
    assert_eq!(witness.packets(), []);
}

fn a_changed_routing_rule_is_found() {
    let (bed, _proxy) = Bed::captured();
    let relaid = |fault: &str| {
        let found = faults(&bed.pod);
        assert!(found.len() == 1 && found[0].contains(fault), "{found:?}");
        bed.lay(Mode::Capture { standing: Vec::new() });
        assert_eq!(faults(&bed.pod), [""; 0]);
    };
    delete_early_route(&bed.pod);
    relaid("table 101");
    sysctl(&bed.pod, "net.ipv4.conf.all.src_valid_mark", "0").unwrap();
    relaid("src_valid_mark");
    within(&bed.pod, async || {
        Connection::<Route>::new()?.del_rule(RuleBuilder::v4().priority(32763).table(101)).await
    });
    relaid("priority 32763");
}
