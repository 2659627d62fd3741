//! What a peer writes into a CONNECT request: authority, `forwarded`, `traceparent`, `baggage`.

use aquifer_hbone::{Authority, Baggage, Forwarded, Traceparent};

/// Longest `baggage` header that is read, in bytes.
const LONGEST_BAGGAGE: usize = 4096;

/// Parses the bytes as each of the four. What is understood is written again and understood alike: otherwise two proxies in
/// a row would disagree about where a stream leads.
pub(super) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    authority(&text);
    forwarded(&text);
    traceparent(&text);
    baggage(&text);
}

fn authority(text: &str) {
    let Ok(authority) = Authority::parse(text) else { return };
    assert_ne!(authority.port(), 0, "{authority:?} has no port");
    if let Authority::Host(host, _) = &authority {
        assert!(host.len() <= 253 && !host.ends_with('.') && host.is_ascii(), "{host:?} is no host name");
        assert_eq!(host.to_ascii_lowercase(), **host, "host names are compared in lower case");
    }
    assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
}

fn forwarded(text: &str) {
    let Ok(forwarded) = Forwarded::parse(text) else { return };
    assert_eq!(Forwarded::parse(&forwarded.to_string()), Ok(forwarded));
}

fn traceparent(text: &str) {
    let Some(traceparent) = Traceparent::parse(text) else { return };
    assert!(traceparent.trace != 0 && traceparent.span != 0, "zeros are no trace");
    assert_eq!(Traceparent::parse(&traceparent.to_string()), Some(traceparent));
}

fn baggage(text: &str) {
    let baggage = Baggage::parse(text);
    let values = [
        &baggage.cluster,
        &baggage.namespace,
        &baggage.service,
        &baggage.version,
        &baggage.region,
        &baggage.zone,
    ];
    let workload = baggage.workload.as_ref().map(|(_, name)| name);
    for value in values.into_iter().flatten().chain(workload) {
        assert!((1..=253).contains(&value.len()), "a value of {} bytes", value.len());
        assert!(!value.chars().any(char::is_control), "{value:?} would break a log line");
    }
    let written = baggage.to_string();
    // Escapes can make it longer than what is read.
    if written.len() <= LONGEST_BAGGAGE {
        assert_eq!(Baggage::parse(&written), baggage);
    }
}
