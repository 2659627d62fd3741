//! Which way a call takes, who the server sees, how connections end, and that wire, records and metrics agree on it.

mod ends;
mod reach;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{Mesh, Pod, Scenario, node, wait_for};

fn main() -> ExitCode {
    if let Some(code) = node::or_program(aquifer::main) {
        return code;
    }
    aquifer_integration::main(&[
        Scenario {
            name: "across_nodes_in_a_tunnel",
            story: "A call between nodes crosses in a tunnel, over IPv4 and IPv6, and the server sees the true client.",
            run: reach::across_nodes_in_a_tunnel,
        },
        Scenario {
            name: "on_one_node_inside_the_process",
            story: "A call on one node leaves no packet on any cable, and both identities are known.",
            run: reach::on_one_node_inside_the_process,
        },
        Scenario {
            name: "on_one_node_in_a_tunnel",
            story: "With --same-node mtls a call on one node goes through a tunnel like any other.",
            run: reach::on_one_node_in_a_tunnel,
        },
        Scenario {
            name: "out_of_the_mesh_in_clear",
            story: "A pod of the mesh reaches one outside it in clear, under its own address.",
            run: reach::out_of_the_mesh_in_clear,
        },
        Scenario {
            name: "into_the_mesh_under_permissive",
            story: "A pod outside the mesh reaches one inside, and the application sees who it is.",
            run: reach::into_the_mesh_under_permissive,
        },
        Scenario {
            name: "into_the_mesh_under_strict",
            story: "STRICT resets a caller without identity, says by which policy, and lets the mesh through.",
            run: reach::into_the_mesh_under_strict,
        },
        Scenario {
            name: "services_by_address",
            story: "A Service's addresses of both families and its headless twin's pods are reached in tunnels.",
            run: reach::services_by_address,
        },
        Scenario {
            name: "a_service_half_in_the_mesh",
            story: "The endpoints of one Service are each reached by the path that is theirs, and each is chosen.",
            run: reach::a_service_half_in_the_mesh,
        },
        Scenario {
            name: "services_without_an_endpoint",
            story: "A Service without an endpoint, or without one of the called family, resets at once and says why.",
            run: reach::services_without_an_endpoint,
        },
        Scenario {
            name: "pods_of_one_family",
            story: "Pods with IPv4 alone and with IPv6 alone are reached over what they have.",
            run: reach::pods_of_one_family,
        },
        Scenario {
            name: "a_pod_calls_itself",
            story: "A pod that is the only endpoint of its Service reaches itself, by either way of one node.",
            run: reach::a_pod_calls_itself,
        },
        Scenario {
            name: "out_of_the_mesh_networks",
            story: "An address outside the mesh's networks is reached untouched, under the pod's own address.",
            run: reach::out_of_the_mesh_networks,
        },
        Scenario {
            name: "an_unknown_pod_is_refused",
            story: "An address inside the mesh's networks that nobody has is waited for, then reset, never sent in clear.",
            run: reach::an_unknown_pod_is_refused,
        },
        Scenario {
            name: "a_server_speaks_first",
            story: "A server that greets before it is asked is heard, on every path.",
            run: ends::a_server_speaks_first,
        },
        Scenario {
            name: "half_close_by_the_client",
            story: "A client that has said all still hears all, on every path.",
            run: ends::half_close_by_the_client,
        },
        Scenario {
            name: "half_close_by_the_server",
            story: "A server that has said all still hears all, on every path.",
            run: ends::half_close_by_the_server,
        },
        Scenario {
            name: "half_closed_and_idle",
            story: "A half-closed connection that is idle for --half-close-idle is reset on both sides, on every path; a busy one is not.",
            run: ends::half_closed_and_idle,
        },
        Scenario {
            name: "a_reset_stays_a_reset",
            story: "A reset by either application is a reset at the other, never an end, on every path.",
            run: ends::a_reset_stays_a_reset,
        },
        Scenario {
            name: "a_reset_amid_bulk_arrives",
            story: "A reset while a gibibyte is on its way and nobody reads it is a reset at the other side, on every path.",
            run: ends::a_reset_amid_bulk_arrives,
        },
        Scenario {
            name: "a_client_gives_up",
            story: "A client that resets its call before it is carried is noticed at once.",
            run: ends::a_client_gives_up,
        },
        Scenario {
            name: "nothing_is_there",
            story: "Outside the mesh's networks, a refusal or a missing route is a reset at once, and the record says which.",
            run: ends::nothing_is_there,
        },
        Scenario {
            name: "nobody_listens",
            story: "A call to a port where nobody listens is reset at once, and both sides' records say why.",
            run: ends::nobody_listens,
        },
    ])
}

/// How long a count may lag behind the end of a connection.
const SOON: Duration = Duration::from_secs(5);

/// Proves that a node counted `count` calls between two pods on this path: opened, closed, and the bytes of its flow records.
fn expect_counted(
    mesh: &Mesh,
    reporter: &str,
    source: &Pod,
    destination: &Pod,
    path: &str,
    count: usize,
) -> Result<()> {
    let node = mesh.node(if reporter == "source" { source.node() } else { destination.node() });
    // As in Istio, the client's side does not claim to know that nothing else secured the connection.
    let security = match (path, reporter) {
        ("tunnel", _) => "mutual_tls",
        (_, "source") => "unknown",
        _ => "none",
    };
    let labels = [
        ("reporter", reporter),
        ("source_workload", source.name()),
        ("source_workload_namespace", source.namespace()),
        ("destination_workload", destination.name()),
        ("destination_workload_namespace", destination.namespace()),
        ("request_protocol", "tcp"),
        ("aquifer_path", path),
        ("connection_security_policy", security),
    ];
    let flows = wait_for("the records of all calls", SOON, || {
        let flows: Vec<_> = node
            .flows()?
            .into_iter()
            .filter(|flow| {
                flow.reporter == reporter && flow.is_between(&source.full_name(), &destination.full_name())
            })
            .collect();
        Ok((flows.len() >= count).then_some(flows))
    })?;
    ensure!(flows.len() == count, "expected {count} records, there are {}", flows.len());
    ensure!(
        flows.iter().all(|flow| flow.path == path && flow.tls == (path == "tunnel")),
        "another path: {flows:#?}"
    );
    let (up, down) =
        flows.iter().fold((0, 0), |(up, down), flow| (up + flow.bytes_sent, down + flow.bytes_received));
    let expected = [
        ("istio_tcp_connections_opened_total", count as u64),
        ("istio_tcp_connections_closed_total", count as u64),
        ("istio_tcp_received_bytes_total", up),
        ("istio_tcp_sent_bytes_total", down),
    ];
    let mut text = String::new();
    wait_for("the metrics to say the same", SOON, || {
        let metrics = node.metrics()?;
        text = metrics
            .text()
            .lines()
            .filter(|line| line.starts_with("istio_tcp"))
            .collect::<Vec<_>>()
            .join("\n");
        Ok(expected.iter().all(|&(name, value)| metrics.sum(name, &labels) == value as f64).then_some(()))
    })
    .with_context(|| format!("{} was to have {expected:?} with {labels:?}, and has:\n{text}", node.name()))
}
