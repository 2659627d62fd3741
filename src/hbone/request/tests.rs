//! Authorities, `forwarded` and `traceparent`: round trips, examples, and text that must not pass.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::hpack;

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<std::net::IpAddr>(), 1u16..).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn host() -> impl Strategy<Value = Box<str>> {
    "[a-z][a-z0-9-]{0,20}(\\.[a-z0-9_][a-z0-9-]{0,20}){0,4}".prop_map(|s| s.into())
}

proptest! {
    #[test]
    fn addresses_are_read_back(address in address()) {
        let authority = Authority::from(address);
        prop_assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
    }

    #[test]
    fn a_request_survives_http(
        authority in prop_oneof![address().prop_map(Authority::Ip), (host(), 1u16..).prop_map(|(h, p)| Authority::Host(h, p))],
        forwarded in proptest::option::of((address(), proptest::option::of(host()))),
        trace in proptest::option::of((1u128.., 1u64.., any::<u8>())),
    ) {
        let request = ConnectRequest {
            authority,
            baggage: None,
            forwarded: forwarded.map(|(source, host)| Forwarded { source, host }),
            traceparent: trace.map(|(trace, span, flags)| Traceparent { trace, span, flags }),
        };
        let block = request.block().expect("well-formed");
        let fields = Fields::decode(&mut hpack::Decoder::new(0), &block, usize::MAX).expect("own words");
        prop_assert!(fields.valid(head::Kind::Request));
        prop_assert_eq!(ConnectRequest::from_fields(&fields), Ok(request));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,300}", tail in "[\\[\\]:.%0-9a-f\"=;-]{0,60}") {
        for text in [&text, &tail] {
            let _ = Authority::parse(text);
            let _ = Forwarded::parse(text);
            let _ = Traceparent::parse(text);
            let _ = Forwarded::parse(&format!("for={text}"));
        }
    }
}

#[test]
fn authorities_that_must_not_pass() {
    for text in [
        "",
        ":",
        "10.0.0.1",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:+80",
        "::1:80",
        "[::1]",
        "[::1%3]:80",
        "10.0.0:80",
        "a..b:80",
        "user@host:80",
        "host:80/path",
        "host:",
        "host :80",
        "10.0.0.256:80",
    ] {
        assert_eq!(Authority::parse(text), Err(RequestError::Authority), "{text:?}");
    }
    let long = format!("{}:80", "a.".repeat(200));
    assert_eq!(Authority::parse(&long), Err(RequestError::Authority));
}

#[test]
fn a_host_is_lower_case_without_its_last_dot() {
    assert_eq!(Authority::parse("Web.Shop.svc.:80"), Ok(Authority::Host("web.shop.svc".into(), 80)));
}

#[test]
fn forwarded_takes_what_waypoints_write() {
    let read = Forwarded::parse("for=\"10.1.2.3:4567\";host=web.shop.svc.cluster.local").expect("parses");
    assert_eq!(
        (read.source, read.host.as_deref()),
        (([10, 1, 2, 3], 4567).into(), Some("web.shop.svc.cluster.local"))
    );
    assert!(Forwarded::parse("for=\"[2001:db8::1]:1\"").is_ok());
    assert!(Forwarded::parse("For=10.1.2.3:1;proto=tcp").is_ok());
    for text in ["", "host=a", "for=\"unknown\"", "for=\"10.0.0.1:1\";for=\"10.0.0.2:1\"", "for=\"10.0.0.1\""]
    {
        assert_eq!(Forwarded::parse(text), Err(RequestError::Forwarded), "{text:?}");
    }
}

#[test]
fn another_method_is_no_request() {
    let mut fields = Fields::default();
    fields.method = Some("GET".into());
    assert_eq!(ConnectRequest::from_fields(&fields), Err(RequestError::Method));
}
