//! Much at once: bulk, crowds, stopped readers, small writes, endpoints that come and go.

mod bulk;
mod crowds;
mod stopped;

use std::process::ExitCode;

use anyhow::Result;
use aquifer_integration::{Mesh, Pod, PodSpec, Scenario, Stage, node};

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    if let Some(code) = node::or_program(aquifer::main) {
        return code;
    }
    aquifer_integration::main(&[
        Scenario {
            name: "a_gibibyte_each_way",
            story: "1 GiB down, 1 GiB up, and both at once arrive byte by byte, and are counted to the byte.",
            run: bulk::a_gibibyte_each_way,
        },
        Scenario {
            name: "a_thousand_at_once",
            story: "1,000 connections are opened, held and used at once, in tunnels that are far fewer.",
            run: crowds::a_thousand_at_once,
        },
        Scenario {
            name: "thousands_in_clear_from_one_address",
            story: "2,000 plaintext connections of one client are held, 2,000 more are opened, and none is slow.",
            run: crowds::thousands_in_clear_from_one_address,
        },
        Scenario {
            name: "stopped_readers_stop_nobody",
            story: "20 readers that stopped hold up neither a 21st nor each other, and lose nothing when they go on.",
            run: stopped::stopped_readers_stop_nobody,
        },
        Scenario {
            name: "stopped_readers_are_shed_at_the_cap",
            story: "Where 20 stopped readers would pass --buffer-cap, those stopped longest are reset and memory stays under it.",
            run: stopped::stopped_readers_are_shed_at_the_cap,
        },
        Scenario {
            name: "stopped_writers_stop_nobody",
            story: "20 uploads into servers that read nothing hold up no 21st, and are reset when their server is.",
            run: stopped::stopped_writers_stop_nobody,
        },
        Scenario {
            name: "short_connections_never_run_out",
            story: "Thousands of short connections of one client a path, and none meets an address that is still in use.",
            run: crowds::short_connections_never_run_out,
        },
        Scenario {
            name: "bulk_on_every_path_at_once",
            story: "128 MiB each way on each path, all at once, arrive byte by byte and are counted to the byte.",
            run: bulk::bulk_on_every_path_at_once,
        },
        Scenario {
            name: "bulk_crosses_a_bad_network",
            story: "Where one packet in 30 is lost, bulk arrives whole in tunnels and in clear.",
            run: bulk::bulk_crosses_a_bad_network,
        },
        Scenario {
            name: "endpoints_come_and_go",
            story: "An endpoint that is taken out and one that is added under load cost no request.",
            run: crowds::endpoints_come_and_go,
        },
        Scenario {
            name: "small_writes_beside_bulk",
            story: "Tens of thousands of one-byte writes pass beside bulk in the same tunnels, without an end to any.",
            run: bulk::small_writes_beside_bulk,
        },
    ])
}

/// A client and a server on two nodes, started.
fn pair(stage: &Stage, args: &[&str]) -> Result<(Mesh, Pod, Pod)> {
    let mut mesh = stage.mesh()?;
    mesh.args(args);
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    mesh.start()?;
    Ok((mesh, client, server))
}
