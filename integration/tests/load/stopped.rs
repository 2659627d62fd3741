//! Applications that stop reading: nobody else notices, and memory stays bounded.

use std::{fs, net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aquifer_integration::{CallError, Conn, Mesh, Pod, Serve, Stage, wait_for};

use crate::{MIB, pair};

/// Resident memory of a node's workers, in bytes, as the kernel counts it.
pub(crate) fn resident(mesh: &Mesh, index: usize) -> Result<u64> {
    let mut bytes = 0;
    for pid in mesh.node(index).workers() {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        bytes += 1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(bytes)
}

/// Opens so many downloads that nobody reads, and waits until nothing of them moves any more.
fn stop_readers(mesh: &Mesh, client: &Pod, from: SocketAddr, count: usize) -> Result<Vec<Conn>> {
    let readers = (0..count).map(|_| client.connect(from)).collect::<Result<Vec<_>, _>>()?;
    let wire = mesh.bed().wire()?;
    let mut quiet = 0;
    wait_for("the stopped readers to fill what there is", Duration::from_secs(30), || {
        // An idle tunnel still carries its PINGs.
        quiet = if wire.take()?.tunnel.payload < 64 * 1024 { quiet + 1 } else { 0 };
        Ok((quiet >= 25).then_some(()))
    })?;
    Ok(readers)
}

pub(crate) fn stopped_readers_stop_nobody(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 100 * MIB;
    // Enough for 20 windows of 4 MiB at either node.
    let (mesh, client, server) = pair(stage, &["--buffer-cap", "268435456"])?;
    let source = server.serve(1, Serve::Source(SIZE))?;
    let echo = server.serve(7, Serve::Echo)?;
    let before = [resident(&mesh, 0)?, resident(&mesh, 1)?];
    let readers = stop_readers(&mesh, &client, source.v4(), 20)?;
    let trip = client.round_trips(echo.v4(), 100)?;
    ensure!(trip[99] < Duration::from_millis(500), "a round trip took {:?}", trip[99]);
    client.download(source.v4(), SIZE)?;
    for (index, before) in before.into_iter().enumerate() {
        let grown = resident(&mesh, index)?.saturating_sub(before) / MIB;
        ensure!(grown < 160, "node {index} holds {grown} MiB more for 20 stopped readers");
    }
    for mut reader in readers {
        let all = reader.receive_to_end()?;
        ensure!(all.len() as u64 == SIZE, "a reader that went on got {} bytes", all.len());
    }
    Ok(())
}

pub(crate) fn stopped_readers_are_shed_at_the_cap(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 100 * MIB;
    const CAP: u64 = 32 * MIB;
    let (mesh, client, server) = pair(stage, &["--buffer-cap", &CAP.to_string()])?;
    let source = server.serve(1, Serve::Source(SIZE))?;
    let before = resident(&mesh, 0)?;
    let readers = stop_readers(&mesh, &client, source.v4(), 20)?;
    client.download(source.v4(), SIZE)?;
    let grown = resident(&mesh, 0)?.saturating_sub(before);
    ensure!(grown < CAP + 48 * MIB, "the client's node holds {} MiB more", grown / MIB);
    let reset =
        readers.into_iter().map(|mut reader| reader.receive_to_end()).filter(|end| end.is_err()).count();
    ensure!((1..20).contains(&reset), "{reset} readers of 20 were reset");
    let mut said = (0.0, 0.0, 0.0);
    wait_for("the metrics to tell it", Duration::from_secs(5), || {
        let metrics = mesh.node(0).metrics()?;
        said = (
            metrics.sum("aquifer_streams_shed_total", &[]),
            metrics.sum("aquifer_buffered_bytes", &[]),
            metrics.sum("aquifer_buffered_bytes_limit", &[]),
        );
        Ok((said == (reset as f64, 0.0, CAP as f64)).then_some(()))
    })
    .with_context(|| format!("{reset} readers were reset; shed, buffered and limit are {said:?}"))?;
    let flow = mesh.node(0).wait_flow(Duration::from_secs(5), |flow| flow.verdict == "failed")?;
    ensure!(
        flow.reason == "reader-stopped" && flow.closed_by == "proxy" && flow.advice.contains("--buffer-cap"),
        "{flow:#?}"
    );
    Ok(())
}

pub(crate) fn stopped_writers_stop_nobody(stage: &mut Stage) -> Result<()> {
    const SIZE: u64 = 100 * MIB;
    let (mesh, client, server) = pair(stage, &["--buffer-cap", "268435456"])?;
    let deaf = server.serve(1, Serve::Deaf)?;
    let sink = server.serve(2, Serve::Sink)?;
    let before = [resident(&mesh, 0)?, resident(&mesh, 1)?];
    let flood = vec![b'x'; 64 << 20];
    let stopped = thread::scope(|scope| {
        let writers: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| -> Result<Conn> {
                    let mut conn = client.connect_within(deaf.v4(), Duration::from_secs(2))?;
                    let stuck = conn.send(&flood);
                    ensure!(matches!(stuck, Err(CallError::TimedOut { .. })), "nobody reads, but {stuck:?}");
                    Ok(conn)
                })
            })
            .collect();
        let joined = writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| bail!("it panicked")));
        joined.collect::<Result<Vec<_>>>()
    })?;
    client.upload(sink.v4(), SIZE)?;
    for (index, before) in before.into_iter().enumerate() {
        let grown = resident(&mesh, index)?.saturating_sub(before) / MIB;
        ensure!(grown < 160, "node {index} holds {grown} MiB more for 20 stopped writers");
    }
    drop(deaf);
    for mut writer in stopped {
        writer.expect_reset().map_err(anyhow::Error::msg)?;
    }
    Ok(())
}
