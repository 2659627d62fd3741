//! The sockets themselves: what an accepted one has inherited, and that a thread comes back from a namespace.

use std::{io, os::fd::AsFd, panic, path::Path, time::Duration};

use aquifer_sys::{
    MARK, NetNs,
    link::sysctl,
    rules::Mode,
    socket::{self, Listen, connect_socket},
};
use socket2::SockRef;

use crate::{
    Test,
    bed::{Bed, Family, PORT, Proxy, assert_refused, call, connected, exchange, serve},
};

pub(crate) const TESTS: &[Test] = &[
    ("an_accepted_socket_needs_no_set_up", an_accepted_socket_needs_no_set_up),
    ("syn_cookies_are_answered_to_the_right_listener", syn_cookies_are_answered_to_the_right_listener),
    ("a_port_that_is_taken_is_named", a_port_that_is_taken_is_named),
    ("options_are_set_and_read_back", options_are_set_and_read_back),
    ("a_thread_comes_back_from_a_namespace", a_thread_comes_back_from_a_namespace),
];

fn an_accepted_socket_needs_no_set_up() {
    let (bed, proxy) = Bed::captured();
    let _server = serve(&bed.pod, PORT);
    for family in Family::BOTH {
        for which in Listen::ALL {
            let from = if which == Listen::Outbound { &bed.pod } else { &bed.host };
            let (address, port) = match which {
                Listen::Outbound => (family.service(), PORT),
                Listen::Inbound => (family.pod(), PORT),
                Listen::Hbone => (family.pod(), which.port()),
            };
            let _caller = call(from, (address, port)).unwrap();
            let accepted = proxy.accept(which);
            let options = SockRef::from(&accepted.stream);
            assert_eq!(options.mark().unwrap(), MARK);
            assert!(options.tcp_nodelay().unwrap());
            let linger = (which != Listen::Hbone).then_some(Duration::ZERO);
            assert_eq!(options.linger().unwrap(), linger);
            assert!(options.ip_transparent_v4().unwrap());
        }
    }
    // Nobody waits, and the call says so instead of waiting.
    for which in Listen::ALL {
        let error = socket::accept(proxy.listener(which)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

/// Under a flood the kernel keeps no half-open connections, and the packet that completes one belongs to no socket yet.
fn syn_cookies_are_answered_to_the_right_listener() {
    let (bed, proxy) = Bed::captured();
    let _server = serve(&bed.pod, PORT);
    sysctl(&bed.pod, "net.ipv4.tcp_syncookies", "2").unwrap();
    for family in Family::BOTH {
        for (which, from, to) in [
            (Listen::Outbound, &bed.pod, (family.service(), PORT)),
            (Listen::Inbound, &bed.host, (family.pod(), PORT)),
            (Listen::Hbone, &bed.host, (family.pod(), Listen::Hbone.port())),
        ] {
            let caller = call(from, to).unwrap();
            let accepted = proxy.accept(which);
            assert_eq!(accepted.local, to.into());
            exchange(&caller, &accepted.stream);
        }
    }
}

fn a_port_that_is_taken_is_named() {
    let bed = Bed::new();
    let _proxy = Proxy::new(&bed.pod);
    for which in Listen::ALL {
        let error = socket::listen(&bed.pod, which).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&which.port().to_string()), "{error}");
    }
}

fn options_are_set_and_read_back() {
    let bed = Bed::new();
    let server = serve(&bed.host, PORT);
    let to = (Family::V4.host(), PORT).into();
    let stream = connected(connect_socket(&bed.pod, to, None, &|_| false).unwrap()).unwrap();
    let options = SockRef::from(&stream);
    assert_eq!(options.linger().unwrap(), None);
    socket::reset_on_close(&stream, true).unwrap();
    assert_eq!(options.linger().unwrap(), Some(Duration::ZERO));
    socket::reset_on_close(&stream, false).unwrap();
    assert_eq!(options.linger().unwrap(), None);
    socket::keepalive(&stream, Duration::from_secs(60), Duration::from_secs(10), 6).unwrap();
    assert!(options.keepalive().unwrap());
    assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
    assert_eq!(options.tcp_keepalive_retries().unwrap(), 6);
    socket::user_timeout(&stream, Duration::from_secs(90)).unwrap();
    assert_eq!(options.tcp_user_timeout().unwrap(), Some(Duration::from_secs(90)));
    let time = socket::round_trip_time(&stream).unwrap();
    assert!(time > Duration::ZERO && time < Duration::from_secs(1), "{time:?}");
    let (_theirs, _) = server.accept().unwrap();
    bed.lay(Mode::Capture { standing: Vec::new() });
    assert_refused(call(&bed.pod, (Family::V4.host(), PORT)));
}

fn a_thread_comes_back_from_a_namespace() {
    let bed = Bed::new();
    let home = NetNs::current().unwrap();
    let id = || Ok(NetNs::current()?.id());
    assert_ne!(bed.pod.id(), home.id());
    assert_eq!(bed.pod.run(id).unwrap(), bed.pod.id());
    // One inside the other.
    let (inner, outer) = bed.pod.run(|| Ok((bed.host.run(id)?, id()?))).unwrap();
    assert_eq!((inner, outer), (bed.host.id(), bed.pod.id()));
    assert!(bed.pod.run(|| Err::<(), _>(io::Error::other("failed"))).is_err());
    assert_eq!(id().unwrap(), home.id());
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(|| bed.pod.run(|| -> io::Result<()> { panic!("inside") }));
    panic::set_hook(hook);
    assert!(result.is_err());
    assert_eq!(id().unwrap(), home.id());
    // A descriptor is as good as a path, and both name the same.
    let copy = NetNs::from_fd(bed.pod.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(copy, bed.pod);
    assert_eq!(NetNs::open(Path::new("/proc/self/ns/net")).unwrap(), home);
}
