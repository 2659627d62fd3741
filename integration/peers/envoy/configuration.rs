//! Envoy's configuration for both ends of HBONE, tuned as fairly as Istio tunes its waypoints.
//!
//! What is set beyond the defaults, and why:
//! - streams per tunnel, PING interval and time-out, and the balance of tunnels over workers are those of Istio's waypoint;
//! - the HTTP/2 windows are the wire's (4 MiB a stream, 16 MiB a connection), the same as Aquifer's;
//! - no circuit breaker, as Istio sets them all to the maximum: the default of 1,024 would refuse, not slow down;
//! - no access log, no tracing, no admin listener, and statistics flushed only when they are asked for;
//! - the client tunnels straight from its TCP listener. Istio's waypoint goes through an internal listener in between, which
//!   costs another pass in user space: the shorter way is the stronger opponent.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Destination, Expect, HboneClient, HboneServer, Tls};

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// No limit, in Envoy's terms.
const UNLIMITED: u32 = u32::MAX;
/// The widest stream limit that HTTP/2 knows; the peer's own limit then decides.
const PEER_DECIDES: u32 = 0x7fff_ffff;

const DOWNSTREAM_TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM_TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const HTTP_MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const HTTP_OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The configuration of an HBONE server.
pub(super) fn server(server: &HboneServer) -> Value {
    let manager = json!({
        "@type": HTTP_MANAGER,
        "stat_prefix": "hbone",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "generate_request_id": false,
        "http2_protocol_options": http2(server.max_streams),
        "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": { "@type": ROUTER } }],
        "route_config": { "virtual_hosts": [{
            "name": "tunnels",
            "domains": ["*"],
            "routes": [{
                "match": { "connect_matcher": {} },
                "route": {
                    "cluster": "application",
                    "timeout": "0s",
                    "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
                },
            }],
        }] },
    });
    let tls = common_tls(&server.tls, &server.clients);
    let mut listener =
        listener("hbone", server.listen, "envoy.filters.network.http_connection_manager", &manager);
    listener["filter_chains"][0]["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": { "@type": DOWNSTREAM_TLS, "require_client_certificate": true, "common_tls_context": tls },
    });
    bootstrap(&listener, &application(server.to))
}

/// The configuration of an HBONE client.
pub(super) fn client(client: &HboneClient) -> Value {
    let headers: Vec<Value> = client
        .headers
        .iter()
        .map(|(key, value)| json!({ "header": { "key": key, "value": value } }))
        .collect();
    let proxy = json!({
        "@type": TCP_PROXY,
        "stat_prefix": "tunnels",
        "cluster": "gateway",
        "idle_timeout": "0s",
        "tunneling_config": { "hostname": client.authority, "headers_to_add": headers },
    });
    let cluster = json!({
        "name": "gateway",
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": no_limits(),
        "load_assignment": assignment("gateway", client.gateway),
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": UPSTREAM_TLS,
                "common_tls_context": common_tls(&client.tls, &client.servers),
            },
        },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": HTTP_OPTIONS,
            "explicit_http_config": { "http2_protocol_options": http2(PEER_DECIDES) },
        } },
    });
    bootstrap(&listener("plain", client.listen, "envoy.filters.network.tcp_proxy", &proxy), &cluster)
}

/// The cluster behind an HBONE server.
fn application(to: Destination) -> Value {
    let mut cluster = json!({
        "name": "application",
        "connect_timeout": "10s",
        "circuit_breakers": no_limits(),
    });
    match to {
        Destination::Fixed(address) => {
            cluster["type"] = json!("STATIC");
            cluster["load_assignment"] = assignment("application", address);
        }
        Destination::Authority => {
            cluster["type"] = json!("ORIGINAL_DST");
            cluster["lb_policy"] = json!("CLUSTER_PROVIDED");
            cluster["original_dst_lb_config"] =
                json!({ "use_http_header": true, "http_header_name": ":authority" });
        }
    }
    cluster
}

fn common_tls(tls: &Tls, expect: &Expect) -> Value {
    let matchers: Vec<Value> = match expect {
        Expect::Identities(names) => {
            names.iter().map(|name| json!({ "san_type": "URI", "matcher": { "exact": name } })).collect()
        }
        Expect::TrustDomain(domain) => {
            vec![json!({ "san_type": "URI", "matcher": { "prefix": format!("spiffe://{domain}/") } })]
        }
    };
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": tls.chain },
            "private_key": { "filename": tls.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": tls.roots },
            "match_typed_subject_alt_names": matchers,
        },
    })
}

fn http2(max_streams: u32) -> Value {
    json!({
        "allow_connect": true,
        "max_concurrent_streams": max_streams,
        "initial_stream_window_size": STREAM_WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
        "connection_keepalive": { "interval": "10s", "timeout": "20s" },
    })
}

fn listener(name: &str, address: SocketAddr, filter: &str, typed: &Value) -> Value {
    json!({
        "name": name,
        "address": socket_address(address),
        // Else the kernel's hash may put both tunnels, or most connections, on one worker.
        "connection_balance_config": { "exact_balance": {} },
        "filter_chains": [{ "filters": [{ "name": filter, "typed_config": typed }] }],
    })
}

fn bootstrap(listener: &Value, cluster: &Value) -> Value {
    json!({
        "node": { "id": "peer", "cluster": "peer" },
        "stats_flush_on_admin": true,
        "static_resources": { "listeners": [listener], "clusters": [cluster] },
        // Envoy warns without a limit; the bench opens some thousand at most.
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": 15_000,
            },
        }] },
    })
}

fn socket_address(address: SocketAddr) -> Value {
    let mut socket = json!({ "address": address.ip().to_string(), "port_value": address.port() });
    // A wildcard listener is to take both families, as the kernel's default has it.
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket["ipv4_compat"] = json!(true);
    }
    json!({ "socket_address": socket })
}

fn assignment(cluster: &str, address: SocketAddr) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket_address(address) } }] }],
    })
}

fn no_limits() -> Value {
    json!({ "thresholds": [{
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_requests": UNLIMITED,
        "max_retries": UNLIMITED,
    }] })
}
