//! Policy at work: a call that is denied, and a rule that changes under a living connection.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aquifer_integration::{FlowRecord, Pod, wait_for};
use aquifer_ztunnel_like::config::MeshNames;

use super::stage::{ECHO, HTTP, PATIENCE, Policy};
use super::story::{Seen, Story};
use crate::explain::{Outcome, explain};
use crate::table::time;

/// Who has no rule: one server calls the other; the pod outside calls a port that it may not.
pub(super) fn denied(story: &mut Story) -> Result<Seen> {
    let stage = &story.stage;
    let [near, far] = &stage.web;
    let begun = Instant::now();
    is_cut(near, far, HTTP)?;
    let took = begun.elapsed();
    let is_denied = |flow: &FlowRecord| flow.verdict == "denied";
    let there = stage.record(near, far, is_denied)?;
    let here = stage.mesh.node(near.node()).wait_flow(PATIENCE, |flow| {
        flow.is_source() && is_denied(flow) && flow.is_between(&near.full_name(), &far.full_name())
    })?;
    is_cut(&stage.outside, far, ECHO)?;
    let plain = stage.record(&stage.outside, far, is_denied)?;

    let mut unexpected = Vec::new();
    for (who, record) in
        [("the caller's node", &here), ("the called node", &there), ("the plaintext call", &plain)]
    {
        if record.reason != "no-allow-match" {
            unexpected.push(format!("{who} gives another reason: {record}"));
        }
    }
    let manifests = stage.mesh.manifests().dir();
    let told =
        explain(manifests, &MeshNames::default(), &near.full_name(), &format!("{}:{HTTP}", far.full_name()))?;
    let by = told.verdicts().next().and_then(|verdict| Some((verdict.reason?, verdict.by.clone()?)));
    let agrees = by.as_ref().is_some_and(|(reason, by)| *reason == there.reason && *by == there.policy);
    if told.outcome != Outcome::Denied || !agrees {
        unexpected.push(format!("explain says otherwise than the node ({there}): {told}"));
    }
    let text = format!(
        "{} as {} calls {}:{HTTP}: reset after {}; {} and {} both say {}, {}; `aquifer explain` says so too; {} without an \
         identity calls {}:{ECHO}: {}, {}",
        near.name(),
        near.identity(),
        far.name(),
        time(took),
        stage.mesh.node(near.node()).name(),
        stage.mesh.node(far.node()).name(),
        there.reason,
        there.policy,
        stage.outside.name(),
        far.name(),
        plain.verdict,
        plain.reason,
    );
    Ok(Seen { text, unexpected, ..Seen::default() })
}

/// The file is edited; a connection that the new rules forbid ends, its neighbour lives on.
pub(super) fn edited(story: &mut Story) -> Result<Seen> {
    let stage = &story.stage;
    let far = &stage.web[1];
    let mut raw = stage.client.connect((far.ip(), ECHO).into())?;
    let mut http = stage.client.connect((far.ip(), HTTP).into())?;
    raw.ping()?;
    http.get("/")?;

    stage.set_policy(Policy::HttpOnly)?;
    let begun = Instant::now();
    raw.expect_reset().map_err(|found| anyhow::anyhow!("the raw TCP connection was not reset: {found}"))?;
    let took = begun.elapsed();
    let reply = http.get("/").context("the HTTP connection, which the new rules allow, did not live on")?;
    ensure!(reply.status == 200, "the HTTP connection answered {}", reply.status);
    let cut = |flow: &FlowRecord| {
        flow.verdict == "denied" && flow.bytes_sent > 0 && flow.destination_address == Some(raw.remote())
    };
    let record = stage.record(&stage.client, far, cut)?;
    is_cut(&stage.client, far, ECHO)?;

    stage.set_policy(Policy::Open)?;
    wait_for("the first rules to hold again", PATIENCE, || {
        stage.stop.check()?;
        Ok(stage.client.connect(raw.remote()).and_then(|mut conn| conn.ping()).ok())
    })?;
    let text = format!(
        "port {ECHO} taken out of the rule in {}.yaml: the connection cut {} after the file was written ({}, {}); the one to \
         port {HTTP} lived on; a new one to {ECHO} reset; rule put back, and it is served again",
        super::stage::POLICY_FILE,
        time(took),
        record.reason,
        record.policy,
    );
    Ok(text.into())
}

/// A connection must be reset before anything is answered.
fn is_cut(from: &Pod, to: &Pod, port: u16) -> Result<()> {
    let answer = from.connect((to.ip(), port).into()).and_then(|mut conn| {
        conn.send(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n")?;
        conn.receive(1)
    });
    match answer {
        Err(error) if error.is_cut() => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("{} to {}:{port}, instead of a reset", from.name(), to.name()))
        }
        Ok(_) => anyhow::bail!("{}:{port} answered {}, whom no rule allows", to.name(), from.name()),
    }
}
