//! Faults of networks, peers, machines and people: each gets a clear answer, and nothing that works is lost by it.

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    CallError, NodeProcess, PodSpec, Scenario, Serve, Stage,
    fault::{BlackHole, Unplugged},
    wait_for,
};

#[path = "support/credentials.rs"]
mod credentials;
#[path = "faults/machine.rs"]
mod machine;
#[path = "support/peer.rs"]
mod peer;
#[path = "faults/people.rs"]
mod people;

use peer::{Habit, HabitualPeer};

const SOON: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Some(code) = aquifer_integration::node::or_program(aquifer::main) {
        return code;
    }
    aquifer_integration::main(&[
        Scenario {
            name: "a_black_hole_is_named",
            story: "Calls into a black hole fail together at the dial's deadline; the record names port 15008 and NetworkPolicy.",
            run: a_black_hole_is_named,
        },
        Scenario {
            name: "a_peer_that_vanishes_is_noticed",
            story: "A node that is cut off in mid-connection is noticed without a byte being sent; both applications see a reset.",
            run: a_peer_that_vanishes_is_noticed,
        },
        Scenario {
            name: "a_peer_that_says_goodbye_is_left",
            story: "A peer that says GOAWAY after each stream serves 30 callers, and the streams that stand go on.",
            run: a_peer_that_says_goodbye_is_left,
        },
        Scenario {
            name: "a_reused_tunnel_that_dies_costs_nothing",
            story: "A peer that drops the tunnel when it is used again is dialled anew before a byte is lost.",
            run: a_reused_tunnel_that_dies_costs_nothing,
        },
        Scenario {
            name: "out_of_descriptors",
            story: "A node without a free descriptor neither spins nor floods its log, and recovers by itself.",
            run: machine::out_of_descriptors,
        },
        Scenario {
            name: "a_full_disk_is_named",
            story: "A node whose CA folder cannot be written says so and what to do, and serves once there is room.",
            run: machine::a_full_disk_is_named,
        },
        Scenario {
            name: "a_namespace_that_is_not_there_holds_up_nobody",
            story: "A pod whose network namespace does not exist, or disappears, is told per pod; the others are served.",
            run: machine::a_namespace_that_is_not_there_holds_up_nobody,
        },
        Scenario {
            name: "a_port_that_is_taken_is_told",
            story: "A pod whose application holds a port of the proxy is told so, and enrolled once the port is free.",
            run: machine::a_port_that_is_taken_is_told,
        },
        Scenario {
            name: "two_pods_with_one_address_are_told",
            story: "An address that two pods claim is shown in the snapshot with both names, until one of them goes.",
            run: people::two_pods_with_one_address_are_told,
        },
        Scenario {
            name: "a_broken_edit_changes_nothing",
            story: "A file that is broken by an edit is logged with file and line, and the last good state of it holds.",
            run: people::a_broken_edit_changes_nothing,
        },
        Scenario {
            name: "the_admin_pages_tell_all_but_keys",
            story: "Configuration, snapshot, certificates, pools and enrolments are shown on loopback, no key anywhere; the log level moves.",
            run: people::the_admin_pages_tell_all_but_keys,
        },
    ])
}

fn a_black_hole_is_named(stage: &mut Stage) -> Result<()> {
    const DIAL: Duration = Duration::from_secs(10);
    let mut mesh = stage.mesh()?;
    // A dial is shared by the calls of one core, and two cores would dial once each.
    mesh.args(&["--cores", "1"]);
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    mesh.start()?;
    let hole = BlackHole::pod(mesh.bed(), 0, &server)?;
    let begun = Instant::now();
    // Half of them come in the middle of the dial: they share its deadline instead of beginning another.
    let ends: Vec<_> = thread::scope(|scope| {
        let call = |after: Duration| {
            let (client, to) = (client.clone(), echo.v4());
            scope.spawn(move || {
                // The delay is the story, not a wait for something.
                thread::sleep(after);
                let called = client.connect_within(to, 3 * DIAL).and_then(|mut conn| conn.ping());
                (begun.elapsed(), called)
            })
        };
        let calls: Vec<_> =
            (0..20).map(|n| call(if n % 2 == 0 { Duration::ZERO } else { DIAL / 2 })).collect();
        calls.into_iter().filter_map(|call| call.join().ok()).collect()
    });
    for (at, called) in &ends {
        ensure!(matches!(called, Err(CallError::Reset { .. })), "a call into a black hole: {called:?}");
        ensure!(*at > DIAL * 9 / 10 && *at < DIAL * 13 / 10, "a call ended after {at:?}, not {DIAL:?}");
    }
    ensure!(ends.len() == 20, "{} calls ended", ends.len());
    let flow = mesh.source_flow(&client, &server)?;
    ensure!(flow.verdict == "failed" && flow.hop == "dial", "{flow}");
    ensure!(flow.error.contains("15008") && flow.error.contains("NetworkPolicy"), "{}", flow.error);
    let failures = mesh.node(0).metrics()?.sum("aquifer_tunnel_dial_failures_total", &[]);
    ensure!(failures == 1.0, "20 calls to one peer made {failures} dials");

    drop(hole);
    client.connect(echo.v4())?.ping()?;
    Ok(())
}

fn a_peer_that_vanishes_is_noticed(stage: &mut Stage) -> Result<()> {
    /// A PING each 10 s, dead 20 s after it; and a machine that is busy.
    const NOTICED: Duration = Duration::from_secs(38);
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    mesh.start()?;
    let mut idle = client.connect_within(echo.v4(), NOTICED)?;
    idle.ping()?;

    let unplugged = Unplugged::node(mesh.bed(), 1)?;
    idle.expect_reset().map_err(anyhow::Error::msg)?;
    let flow = mesh.source_flow(&client, &server)?;
    ensure!(flow.verdict == "failed" && flow.hop == "tunnel" && !flow.error.is_empty(), "{flow}");
    let ended = echo.wait_ended(1, NOTICED)?;
    ensure!(ended.outcome.is_err(), "the server's application must see no orderly end: {ended:?}");
    let flow = mesh.destination_flow(&client, &server)?;
    ensure!(flow.verdict == "failed" && flow.hop == "tunnel", "{flow}");

    drop(unplugged);
    client.connect(echo.v4())?.ping()?;
    Ok(())
}

fn a_peer_that_says_goodbye_is_left(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1).served_by_another())?;
    mesh.start()?;
    let certificate = credentials::issue(&mesh.ca_dir(), &server.identity())?;
    let peer = HabitualPeer::start(&server, &certificate, Habit::LeaveAfterOne)?;
    let mut standing = Vec::new();
    for turn in 0..30 {
        let mut conn = client.connect((server.v4(), 7).into())?;
        conn.ping().with_context(|| format!("call {turn}"))?;
        standing.push(conn);
    }
    for (turn, conn) in standing.iter_mut().enumerate() {
        conn.ping().with_context(|| format!("connection {turn} after the goodbye"))?;
    }
    ensure!(peer.tunnels() >= 30, "30 streams in {} tunnels that take one each", peer.tunnels());
    Ok(())
}

fn a_reused_tunnel_that_dies_costs_nothing(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1).served_by_another())?;
    mesh.start()?;
    let certificate = credentials::issue(&mesh.ca_dir(), &server.identity())?;
    let peer = HabitualPeer::start(&server, &certificate, Habit::DropOnReuse)?;
    for turn in 0..20 {
        let mut conn = client.connect((server.v4(), 7).into())?;
        conn.ping().with_context(|| format!("call {turn}"))?;
        conn.finish()?;
        conn.expect_end()?;
    }
    ensure!(peer.tunnels() >= 20, "20 calls in {} tunnels that take one each", peer.tunnels());

    // A stream that stands in such a tunnel cannot be saved: its application sees a reset, never an end.
    let mut standing = client.connect((server.v4(), 7).into())?;
    standing.ping()?;
    client.connect((server.v4(), 7).into())?.ping()?;
    standing.expect_reset().map_err(anyhow::Error::msg)?;
    let flow = mesh.node(0).wait_flow(SOON, |flow| flow.verdict == "failed")?;
    ensure!(flow.hop == "tunnel" && flow.error.contains("went away"), "{flow}");
    Ok(())
}

/// Lines of a node's log that contain all these words.
fn lines(node: &NodeProcess, words: &[&str]) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(node.log())?;
    Ok(text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect())
}

/// Waits until a node has logged a line that contains all these words.
fn wait_line(node: &NodeProcess, words: &[&str]) -> Result<String> {
    wait_for(&format!("a log line with {words:?}"), SOON, || Ok(lines(node, words)?.pop()))
}
