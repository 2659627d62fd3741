//! Connections that stand while policy changes around them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{
    CallError, Conn, Families, PodSpec, Serve, Stage, manifests::PodState, mesh::CHANGE_LIMIT, wait_for,
};

use crate::call::{allowed, cut, denied, policy, refusal, strict};

pub(crate) fn an_edit_cuts_what_stands(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let far = mesh.pod(PodSpec::new("shop/far"))?;
    let near = mesh.pod(PodSpec::new("shop/near").on(1))?;
    let plain = mesh.pod(PodSpec::new("shop/plain").outside_the_mesh().families(Families::V4))?;
    let spared = mesh.pod(PodSpec::new("shop/spared"))?;
    let echo = web.serve(7, Serve::Echo)?;
    mesh.start()?;
    let mut spared = spared.connect(echo.v4())?;
    let doomed = [&far, &near, &plain];
    let mut standing = doomed
        .iter()
        .map(|client| client.connect_within(echo.v4(), Duration::from_secs(8)))
        .collect::<Result<Vec<_>, CallError>>()?;
    standing.iter_mut().try_for_each(Conn::ping)?;
    spared.ping()?;

    policy(
        &mesh,
        "shop/late",
        &format!(
            "  selector: {{matchLabels: {{app: web}}}}\n  action: DENY\n  rules:\n  - from: [{{source: {{principals: [cluster.local/ns/shop/sa/far, cluster.local/ns/shop/sa/near]}}}}]\n  - from: [{{source: {{ipBlocks: [{}]}}}}]\n",
            plain.v4()
        ),
    )?;
    for (conn, client) in standing.iter_mut().zip(doomed) {
        cut(conn, "shop/late")?;
        let record = refusal(&mesh, client, &web, echo.v4(), "shop/late")?;
        ensure!(record.bytes_sent == 1 && record.bytes_received == 1, "{record}");
    }
    spared.ping().context("a connection that no policy forbids")?;
    let server = echo.wait_ended(3, Duration::from_secs(5))?;
    ensure!(server.outcome.is_err(), "the server saw a clean end of a connection that was cut: {server:?}");
    // HTTP/2 carries no reason with a reset; on one node both records are written by the same hand.
    let record = mesh.source_flow(&far, &web)?;
    ensure!((&*record.verdict, &*record.reason) == ("failed", "peer-reset"), "the client's record: {record}");
    let record = mesh.source_flow(&near, &web)?;
    ensure!(
        record.verdict == "denied" && record.policy.contains("shop/late"),
        "the client's record: {record}"
    );
    let cuts = mesh.node(1).metrics()?.sum("aquifer_policy_cuts_total", &[("reason", "deny-policy")]);
    ensure!(cuts == 3.0, "{cuts} cuts were counted");
    Ok(())
}

pub(crate) fn strict_cuts_what_stands(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let member = mesh.pod(PodSpec::new("shop/member"))?;
    let plain = mesh.pod(PodSpec::new("shop/plain").outside_the_mesh())?;
    let echo = web.serve(7, Serve::Echo)?;
    // Stands before the pod is captured: it is not carried, but policy holds for it all the same.
    let mut early = plain.connect_within(echo.v4(), Duration::from_secs(8))?;
    early.ping()?;
    mesh.start()?;
    early.ping().context("a connection from before the mesh")?;
    let mut tunnelled = member.connect(echo.v6())?;
    let mut clear = plain.connect_within(echo.v6(), Duration::from_secs(8))?;
    tunnelled.ping()?;
    clear.ping()?;

    strict(&mesh, "shop", "")?;
    cut(&mut clear, "shop/strict")?;
    refusal(&mesh, &plain, &web, echo.v6(), "shop/strict")?;
    cut(&mut early, "shop/strict")?;
    refusal(&mesh, &plain, &web, echo.v4(), "shop/strict")?;
    tunnelled.ping().context("a connection in a tunnel")?;
    Ok(())
}

pub(crate) fn a_label_cuts_what_stands(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let echo = web.serve(7, Serve::Echo)?;
    let http = web.serve(80, Serve::Http)?;
    policy(
        &mesh,
        "shop/quarantine",
        "  selector: {matchLabels: {quarantine: 'yes'}}\n  action: DENY\n  rules: [{}]\n",
    )?;
    mesh.start()?;
    let mut conn = client.connect_within(echo.v4(), Duration::from_secs(8))?;
    conn.ping()?;
    allowed(&client, http.v4())?;

    mesh.manifests().pod(&web, &PodState::labelled(&[("app", "web"), ("quarantine", "yes")]))?;
    cut(&mut conn, "shop/quarantine")?;
    refusal(&mesh, &client, &web, echo.v4(), "shop/quarantine")?;
    denied(&mesh, &client, &web, http.v4(), "shop/quarantine")?;

    mesh.manifests().pod(&web, &PodState::default())?;
    wait_for("the call to be allowed again", CHANGE_LIMIT, || Ok(client.http_get(http.v4()).ok()))?;
    Ok(())
}
