//! The bed without Aquifer: what the other scenarios take for granted.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use aquifer_integration::{Bed, PodSpec, Scenario, Serve, Stage, bed::Plan};
use aquifer_sys::link;

fn main() -> ExitCode {
    aquifer_integration::main(&[
        Scenario {
            name: "pods_reach_each_other",
            story: "Pods on two nodes and on one node call each other in v4 and v6, and the server sees the true client.",
            run: pods_reach_each_other,
        },
        Scenario {
            name: "the_wire_counts_what_crosses",
            story: "The capture sees exactly the payload between nodes, and nothing of a call within one node.",
            run: the_wire_counts_what_crosses,
        },
        Scenario {
            name: "transfers_are_checked",
            story: "64 MiB each way, alone and at once, arrive byte by byte; connections end in order on both sides.",
            run: transfers_are_checked,
        },
        Scenario {
            name: "nothing_is_left",
            story: "When a bed is dropped or its maker is gone, no namespace of it stands.",
            run: nothing_is_left,
        },
    ])
}

fn pods_reach_each_other(stage: &mut Stage) -> Result<()> {
    let mut bed = stage.bed()?;
    let client = bed.pod(PodSpec::new("shop/client"))?;
    let near = bed.pod(PodSpec::new("shop/near"))?.serve(80, Serve::Http)?;
    let far = bed.pod(PodSpec::new("shop/far").on(1))?.serve(80, Serve::Http)?;
    for (server, name) in [(&near, "shop/near"), (&far, "shop/far")] {
        for (to, from) in [(server.v4(), client.v4()), (server.v6(), client.v6())] {
            let reply = client.http_get(to)?;
            ensure!(reply.status == 200 && reply.pod == name, "{name} did not answer: {reply:?}");
            ensure!(
                reply.client.is_some_and(|seen| seen.ip() == from),
                "{name} saw another client: {reply:?}"
            );
        }
    }
    Ok(())
}

fn the_wire_counts_what_crosses(stage: &mut Stage) -> Result<()> {
    let mut bed = stage.bed()?;
    let client = bed.pod(PodSpec::new("client"))?;
    let near = bed.pod(PodSpec::new("near"))?.serve(7, Serve::Echo)?;
    let far = bed.pod(PodSpec::new("far").on(1))?.serve(7, Serve::Echo)?;
    let wire = bed.wire_with_marker(b"open sesame")?;

    let mut within = client.connect(near.v4())?;
    within.send(b"open sesame")?;
    within.receive(11)?;
    wire.seen()?.expect_nothing()?;

    for to in [far.v4(), far.v6()] {
        let mut across = client.connect(to)?;
        across.send(b"open sesame")?;
        across.receive(11)?;
        let seen = wire.take()?;
        ensure!(seen.payload_at(to) == 22 && seen.clear.payload == 22, "expected 22 bytes:\n{seen}");
        ensure!(seen.marked == 2, "expected the marker in two packets, not in {}", seen.marked);
        ensure!(seen.expect_only_tunnels(0).is_err(), "plaintext must not pass as tunnelled");
    }
    Ok(())
}

fn transfers_are_checked(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 64 << 20;
    let mut bed = stage.bed()?;
    let client = bed.pod(PodSpec::new("client"))?;
    let server = bed.pod(PodSpec::new("server").on(1))?;
    let (source, sink, both) = (
        server.serve(1, Serve::Source(SIZE))?,
        server.serve(2, Serve::Sink)?,
        server.serve(3, Serve::Exchange(SIZE))?,
    );
    let wire = bed.wire()?;
    client.download(source.v4(), SIZE)?;
    client.upload(sink.v6(), SIZE)?;
    client.exchange(both.v4(), SIZE)?;
    let seen = wire.seen()?;
    ensure!(seen.missed == 0, "the capture missed {} packets", seen.missed);
    ensure!(seen.clear.payload >= 4 * SIZE, "expected at least 256 MiB on the wire:\n{seen}");
    for (server, sent, received) in [(&source, SIZE, 0), (&sink, 8, SIZE), (&both, SIZE, SIZE)] {
        let ended = server.wait_ended(1, Duration::from_secs(5))?;
        ensure!(
            ended.outcome.is_ok() && (ended.sent, ended.received) == (sent, received),
            "wrong end: {ended:?}"
        );
    }
    let wrong = client.download(both.v4(), SIZE - 1);
    ensure!(wrong.is_err(), "a download of another length must be an error");
    Ok(())
}

fn nothing_is_left(stage: &mut Stage) -> Result<()> {
    let plan = Plan::default();
    let dir = plan.netns_dir.clone();
    let mut bed = stage.bed_of(plan.clone())?;
    let pod = bed.pod(PodSpec::new("pod"))?;
    let mut child = pod.spawn(std::process::Command::new("sleep").arg("1000"))?;
    ensure!(
        link::netns_names(&dir)?.len() == 4,
        "two nodes, a switch and a pod: {:?}",
        link::netns_names(&dir)?
    );
    let second = stage.bed_of(plan)?;
    ensure!(link::netns_names(&dir)?.len() == 7, "two beds side by side: {:?}", link::netns_names(&dir)?);
    drop(bed);
    let status = child.wait()?;
    ensure!(status.code().is_none(), "the pod's process must be killed with it, not end with {status}");
    drop(second);
    ensure!(link::netns_names(&dir)?.is_empty(), "left over: {:?}", link::netns_names(&dir)?);

    // No process has this number: pid_max is 4,194,304 at most.
    link::create_netns(&dir, "aqbed4194999-node-1")?;
    link::create_netns(&dir, "somebody-else")?;
    let removed = Bed::cleanup_leftovers(&dir, "aqbed")?;
    ensure!(removed == ["aqbed4194999-node-1"], "removed {removed:?}");
    ensure!(link::netns_names(&dir)? == ["somebody-else"], "what is not ours stays");
    Ok(())
}
