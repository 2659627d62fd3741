//! The bed without Aquifer: what the other scenarios take for granted.

use std::{net::IpAddr, process::ExitCode, time::Duration};

use anyhow::{Result, bail, ensure};
use aquifer_integration::{
    Bed, CallError, Families, Plan, PodSpec, Scenario, Serve, ServiceSpec, Stage,
    fault::{BlackHole, Loss, Unplugged},
    manifests::PodState,
    wait_for,
};
use aquifer_model::{Mesh, MeshConfig, Protocol};
use aquifer_source::{TranslateConfig, World, folder, translate};
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
            name: "crowds_and_load_are_counted",
            story: "1,000 connections stand at once; a load runs without failure, and every failure is seen once the server is gone.",
            run: crowds_and_load_are_counted,
        },
        Scenario {
            name: "applications_end_as_they_say",
            story: "Half-close works either way, a server that dies resets its connections, a deaf one reads nothing.",
            run: applications_end_as_they_say,
        },
        Scenario {
            name: "faults_come_and_go",
            story: "Black hole, pulled cable and loss do what they say, and all is well when they are dropped.",
            run: faults_come_and_go,
        },
        Scenario {
            name: "manifests_are_understood",
            story: "The folder that describes a bed is read without a complaint and says of pods and Services what was built.",
            run: manifests_are_understood,
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

fn crowds_and_load_are_counted(stage: &mut Stage) -> Result<()> {
    let mut bed = stage.bed()?;
    let client = bed.pod(PodSpec::new("client"))?;
    let server = bed.pod(PodSpec::new("server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    let mut crowd = client.crowd(echo.v4(), 1000)?;
    ensure!(crowd.len() == 1000 && echo.open() == 1000, "{} stand, {} open", crowd.len(), echo.open());
    crowd.ping_all()?;
    drop(crowd);
    echo.wait_ended(1000, Duration::from_secs(10))?;

    let http = server.serve(80, Serve::Http)?;
    let load = client.load(http.v6(), 8, 200);
    load.wait_for_more(500, Duration::from_secs(30))?;
    ensure!(load.failed() == 0, "{} requests failed", load.failed());
    drop(http);
    wait_for("failures", Duration::from_secs(10), || Ok((load.failed() >= 20).then_some(())))?;
    let report = load.finish();
    ensure!(report.expect_no_failure(0).is_err(), "a load with failures must not pass");
    ensure!(report.percentile(50.0) <= report.percentile(99.0) && !report.failures.is_empty(), "{report:?}");
    Ok(())
}

fn applications_end_as_they_say(stage: &mut Stage) -> Result<()> {
    let mut bed = stage.bed()?;
    let client = bed.pod(PodSpec::new("client"))?;
    let server = bed.pod(PodSpec::new("server").on(1))?;

    let after_end = server.serve(1, Serve::AfterEnd)?;
    let mut conn = client.connect(after_end.v4())?;
    conn.send(b"first all of the question")?;
    conn.finish()?;
    ensure!(conn.receive_to_end()? == b"first all of the question", "the answer after the end was lost");

    let greeter = server.serve(2, Serve::Greet(b"220 welcome".to_vec()))?;
    let mut conn = client.connect(greeter.v6())?;
    ensure!(conn.receive(11)? == b"220 welcome", "the server did not speak first");
    conn.ping()?;
    drop(greeter);
    conn.expect_reset().map_err(anyhow::Error::msg)?;
    ensure!(client.connect(after_end.v4()).is_ok(), "another server of the pod must live on");

    let deaf = server.serve(3, Serve::Deaf)?;
    let mut conn = client.connect_within(deaf.v4(), Duration::from_millis(300))?;
    let flood = vec![b'x'; 64 << 20];
    let stuck = conn.send(&flood);
    ensure!(
        matches!(stuck, Err(CallError::TimedOut { .. })),
        "64 MiB went into a server that reads nothing: {stuck:?}"
    );

    let nobody = client.connect((server.v4(), 4).into());
    ensure!(matches!(nobody, Err(CallError::Refused)), "nobody listens there: {nobody:?}");
    let nowhere = client.http_get(([10, 96, 0, 1], 80).into());
    ensure!(
        matches!(nowhere, Err(CallError::Unreachable(_))),
        "a Service address must lead nowhere: {nowhere:?}"
    );
    Ok(())
}

fn faults_come_and_go(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 8 << 20;
    const SOON: Duration = Duration::from_millis(500);
    let mut bed = stage.bed()?;
    let client = bed.pod(PodSpec::new("client"))?;
    let pod = bed.pod(PodSpec::new("server").on(1))?;
    let (http, source) = (pod.serve(80, Serve::Http)?, pod.serve(1, Serve::Source(SIZE))?);
    let silent = |to| matches!(client.connect_within(to, SOON), Err(CallError::TimedOut { .. }));

    let hole = BlackHole::pod(&bed, 0, &pod)?;
    ensure!(silent(http.v4()) && silent(http.v6()), "a black hole must swallow calls");
    drop(hole);
    client.http_get(http.v4())?;
    client.http_get(http.v6())?;

    let node = || Unplugged::node(&bed, 1);
    let cable = || Unplugged::pod(&pod);
    for unplug in [&node as &dyn Fn() -> Result<Unplugged>, &cable] {
        let unplugged = unplug()?;
        ensure!(silent(http.v4()), "an unplugged peer must be silent");
        drop(unplugged);
        client.http_get(http.v4())?;
        client.http_get(http.v6())?;
    }

    let wire = bed.wire()?;
    let loss = Loss::one_in(&bed, 0, 10)?;
    client.download(source.v4(), SIZE)?;
    let sent = wire.take()?.payload_at(source.v4());
    ensure!(sent > SIZE, "with loss something is sent again, but there were {sent} bytes");
    drop(loss);
    client.download(source.v6(), SIZE)?;
    Ok(())
}

fn manifests_are_understood(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").label("tier", "1.0"))?;
    let server = mesh.pod(PodSpec::new("shop/web").on(1).named_port("http", 8080))?;
    let stranger = mesh.pod(PodSpec::new("elsewhere/stranger").families(Families::V4).outside_the_mesh())?;
    let (v4, v6): (IpAddr, IpAddr) = ([10, 96, 0, 1].into(), [0xfd96, 0, 0, 0, 0, 0, 0, 1].into());
    mesh.service(&ServiceSpec::new("shop/web").vip(v4).vip(v6).port(80, "http"))?;
    mesh.service(&ServiceSpec::new("shop/headless").select("app", "web").port(80, 8080))?;

    let dir = mesh.manifests().dir().to_owned();
    let read = || -> Result<_> {
        let (objects, problems) = folder::load(&dir, &TranslateConfig::default())?;
        ensure!(problems.is_empty(), "complaints: {problems:#?}");
        let mut model = Mesh::new(MeshConfig { root_namespace: "aquifer-system".into(), networks: None });
        model.apply(World::default().diff(&translate(&objects)));
        Ok(model.snapshot())
    };
    let snapshot = read()?;
    for pod in [&client, &server, &stranger] {
        for address in pod.addresses() {
            let Some(workload) = snapshot.workload_by_ip(address) else { bail!("nobody has {address}") };
            ensure!(workload.pod().to_string() == pod.full_name(), "{address} belongs to {}", workload.pod());
            ensure!(workload.netns() == Some(&*pod.netns_path()), "its namespace is {:?}", workload.netns());
            ensure!(workload.in_mesh() == pod.in_mesh(), "{} is {:?}", workload.pod(), workload.membership());
            ensure!(workload.identity().to_string() == pod.identity(), "it is {}", workload.identity());
            ensure!(snapshot.in_mesh_networks(address), "{address} must be in the mesh's networks");
        }
    }
    for address in [v4, v6] {
        let Some(service) = snapshot.service_by_vip(address) else { bail!("no Service has {address}") };
        let Some(web) = snapshot.workload_by_ip(server.v4()) else { bail!("the server is gone") };
        ensure!(
            snapshot.target_port(service, web, 80, Protocol::Tcp) == Some(8080),
            "port 80 leads elsewhere"
        );
    }

    mesh.manifests().pod(&client, &PodState::member(false))?;
    mesh.remove_pod(&stranger)?;
    let snapshot = read()?;
    ensure!(
        !snapshot.workload_by_ip(client.v4()).is_some_and(|workload| workload.in_mesh()),
        "it was taken out"
    );
    ensure!(snapshot.workload_by_ip(stranger.v4()).is_none(), "it was removed");
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
