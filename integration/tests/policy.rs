//! Who may call whom: each scenario plays twice, and has to notice when the nodes enforce no policy.

#[path = "policy/call.rs"]
mod call;
#[path = "policy/standing.rs"]
mod standing;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use aquifer_integration::{PodSpec, Scenario, Serve, Stage, mesh::CHANGE_LIMIT, wait_for};

use call::{allowed, denied, policy, strict};

fn main() -> ExitCode {
    if let Some(code) = aquifer_integration::node::or_program(aquifer::main) {
        return code;
    }
    aquifer_integration::main_refuted(
        &[
            Scenario {
                name: "deny_by_principal",
                story: "A DENY on principals, with and without spiffe://, holds across nodes and on one node, in v4 and v6.",
                run: deny_by_principal,
            },
            Scenario {
                name: "allow_by_namespace",
                story: "With an ALLOW for a namespace only its pods get through; others, and callers without identity, do not.",
                run: allow_by_namespace,
            },
            Scenario {
                name: "allow_by_principal_in_the_tunnel",
                story: "With --same-node mtls neighbours too cross in a tunnel, and are judged by the certificate they show.",
                run: allow_by_principal_in_the_tunnel,
            },
            Scenario {
                name: "ports_are_told_apart",
                story: "A DENY for one port leaves the other ones open, in tunnels and for plaintext callers.",
                run: ports_are_told_apart,
            },
            Scenario {
                name: "addresses_are_told_apart",
                story: "ipBlocks and notIpBlocks judge the true address of a caller, in both families.",
                run: addresses_are_told_apart,
            },
            Scenario {
                name: "audit_is_written_down",
                story: "An AUDIT rule that matches is counted and logged, and decides nothing; the DENY beside it does.",
                run: audit_is_written_down,
            },
            Scenario {
                name: "strict_by_port",
                story: "STRICT shuts out plaintext callers but for the port that is PERMISSIVE; the mesh gets everywhere.",
                run: strict_by_port,
            },
            Scenario {
                name: "the_whole_mesh_is_ruled_from_the_root_namespace",
                story: "A policy in the root namespace holds in every namespace, and DENY goes before ALLOW.",
                run: the_whole_mesh_is_ruled_from_the_root_namespace,
            },
            Scenario {
                name: "an_edit_cuts_what_stands",
                story: "A DENY written while connections live resets exactly those it forbids, on every path, and the record names it.",
                run: standing::an_edit_cuts_what_stands,
            },
            Scenario {
                name: "strict_cuts_what_stands",
                story: "STRICT written while a plaintext connection lives resets it; one in a tunnel lives on.",
                run: standing::strict_cuts_what_stands,
            },
            Scenario {
                name: "a_label_cuts_what_stands",
                story: "A pod that gets a label under which a policy selects it loses the connections that this policy forbids.",
                run: standing::a_label_cuts_what_stands,
            },
            Scenario {
                name: "an_unreadable_policy_denies",
                story: "A policy that cannot be read, or asks for what is unknown, is no open door; mended, it says what it says.",
                run: an_unreadable_policy_denies,
            },
        ],
        "AQUIFER_FORCED_ALLOW",
    )
}

fn deny_by_principal(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let near = mesh.pod(PodSpec::new("shop/near").on(1))?;
    let far = mesh.pod(PodSpec::new("shop/far"))?;
    let good = mesh.pod(PodSpec::new("shop/good"))?;
    let http = web.serve(80, Serve::Http)?;
    policy(
        &mesh,
        "shop/no-strangers",
        "  selector: {matchLabels: {app: web}}\n  action: DENY\n  rules:\n  - from: [{source: {principals: [cluster.local/ns/shop/sa/near]}}]\n  - from: [{source: {principals: ['spiffe://cluster.local/ns/shop/sa/far']}}]\n",
    )?;
    mesh.start()?;
    let wire = mesh.bed().wire()?;

    for to in [http.v4(), http.v6()] {
        allowed(&good, to)?;
        let record = denied(&mesh, &far, &web, to, "shop/no-strangers rule 1")?;
        ensure!(record.path == "tunnel" && record.source_identity == far.identity(), "{record}");
        let record = denied(&mesh, &near, &web, to, "shop/no-strangers rule 0")?;
        ensure!(record.path == "same-node" && record.reason == "deny-policy", "{record}");
    }
    ensure!(http.accepted() == 2, "a denied call reached the application: {} came", http.accepted());
    let record = mesh.source_flow(&far, &web)?;
    ensure!(record.verdict == "denied" && record.error.contains("no-strangers"), "{record}");
    let denials = mesh.node(1).metrics()?.sum("aquifer_policy_denials_total", &[("reason", "deny-policy")]);
    ensure!(denials >= 4.0, "{denials} denials were counted");
    wire.seen()?.expect_only_tunnels(1)
}

fn allow_by_namespace(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let friend = mesh.pod(PodSpec::new("shop/friend"))?;
    let neighbour = mesh.pod(PodSpec::new("shop/neighbour").on(1))?;
    let foreign = mesh.pod(PodSpec::new("elsewhere/foreign"))?;
    let foreign_neighbour = mesh.pod(PodSpec::new("elsewhere/neighbour").on(1))?;
    let outside = mesh.pod(PodSpec::new("shop/outside").outside_the_mesh())?;
    let http = web.serve(80, Serve::Http)?;
    policy(&mesh, "shop/ours", "  action: ALLOW\n  rules:\n  - from: [{source: {namespaces: [shop]}}]\n")?;
    mesh.start()?;

    for client in [&foreign, &foreign_neighbour] {
        denied(&mesh, client, &web, http.v4(), "no-allow-match")?;
    }
    for client in [&friend, &neighbour] {
        allowed(client, http.v4())?;
        let record = mesh.destination_flow(client, &web)?;
        ensure!(record.policy.contains("shop/ours rule 0"), "{record}");
    }
    let record = denied(&mesh, &outside, &web, http.v6(), "no-allow-match")?;
    ensure!(record.path == "plaintext" && record.source_identity.is_empty() && !record.tls, "{record}");
    ensure!(http.accepted() == 2, "a denied call reached the application: {} came", http.accepted());
    Ok(())
}

fn allow_by_principal_in_the_tunnel(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    mesh.args(&["--same-node", "mtls"]);
    let web = mesh.pod(PodSpec::new("shop/web"))?;
    let friend = mesh.pod(PodSpec::new("shop/friend"))?;
    let foe = mesh.pod(PodSpec::new("shop/foe"))?;
    let http = web.serve(80, Serve::Http)?;
    policy(
        &mesh,
        "shop/friends",
        "  selector: {matchLabels: {app: web}}\n  rules:\n  - from: [{source: {principals: ['spiffe://cluster.local/ns/shop/sa/friend']}}]\n",
    )?;
    mesh.start()?;

    allowed(&friend, http.v4())?;
    let record = mesh.destination_flow(&friend, &web)?;
    ensure!(record.path == "tunnel" && record.tls && record.source_identity == friend.identity(), "{record}");
    let record = denied(&mesh, &foe, &web, http.v4(), "no-allow-match")?;
    ensure!(record.path == "tunnel" && record.source_identity == foe.identity(), "{record}");
    Ok(())
}

fn ports_are_told_apart(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let callers = [
        mesh.pod(PodSpec::new("shop/far"))?,
        mesh.pod(PodSpec::new("shop/near").on(1))?,
        mesh.pod(PodSpec::new("shop/outside").outside_the_mesh())?,
    ];
    let (open, shut) = (web.serve(80, Serve::Http)?, web.serve(9000, Serve::Http)?);
    policy(
        &mesh,
        "shop/no-9000",
        "  selector: {matchLabels: {app: web}}\n  action: DENY\n  rules:\n  - to: [{operation: {ports: ['9000']}}]\n",
    )?;
    mesh.start()?;

    for client in &callers {
        allowed(client, open.v4())?;
        denied(&mesh, client, &web, shut.v4(), "shop/no-9000")?;
        denied(&mesh, client, &web, shut.v6(), "shop/no-9000")?;
    }
    ensure!(shut.accepted() == 0, "a denied call reached the application");
    Ok(())
}

fn addresses_are_told_apart(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let (good, bad) = (mesh.pod(PodSpec::new("shop/good"))?, mesh.pod(PodSpec::new("shop/bad"))?);
    let near = mesh.pod(PodSpec::new("shop/near").on(1))?;
    let plain = mesh.pod(PodSpec::new("shop/plain").outside_the_mesh())?;
    let http = web.serve(80, Serve::Http)?;
    let (v4, v6) = (bad.v4(), bad.v6());
    // All of node-1 but one pod; node-2's pods are in no block.
    policy(
        &mesh,
        "shop/blocks",
        &format!(
            "  selector: {{matchLabels: {{app: web}}}}\n  rules:\n  - from: [{{source: {{ipBlocks: [10.1.0.0/24, 'fd00:1::/64'], notIpBlocks: ['{v4}/32', '{v6}']}}}}]\n"
        ),
    )?;
    mesh.start()?;

    for to in [http.v4(), http.v6()] {
        allowed(&good, to)?;
        allowed(&plain, to)?;
        denied(&mesh, &bad, &web, to, "no-allow-match")?;
        denied(&mesh, &near, &web, to, "no-allow-match")?;
    }
    Ok(())
}

fn audit_is_written_down(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let (open, shut) = (web.serve(80, Serve::Http)?, web.serve(81, Serve::Http)?);
    policy(&mesh, "shop/watch", "  action: AUDIT\n  rules:\n  - from: [{source: {namespaces: [shop]}}]\n")?;
    policy(&mesh, "shop/no-81", "  action: DENY\n  rules:\n  - to: [{operation: {ports: ['81']}}]\n")?;
    mesh.start()?;

    allowed(&client, open.v4())?;
    denied(&mesh, &client, &web, shut.v4(), "shop/no-81")?;
    let audits = mesh.node(1).metrics()?.sum("aquifer_policy_audits_total", &[]);
    ensure!(audits == 2.0, "{audits} audits were counted");
    let lines = wait_for("the audit lines", CHANGE_LIMIT, || {
        let log = std::fs::read_to_string(mesh.node(1).log())?;
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains(r#""target":"audit""#)).map(str::to_owned).collect();
        Ok((lines.len() == 2).then_some(lines))
    })?;
    ensure!(
        lines.iter().all(|line| line.contains("shop/watch rule 0") && line.contains(&client.identity())),
        "{lines:#?}"
    );
    Ok(())
}

fn strict_by_port(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let member = mesh.pod(PodSpec::new("shop/member"))?;
    let outsiders = [
        mesh.pod(PodSpec::new("shop/outside").outside_the_mesh())?,
        mesh.pod(PodSpec::new("shop/outside-near").outside_the_mesh().on(1))?,
    ];
    let (shut, open) = (web.serve(80, Serve::Http)?, web.serve(8080, Serve::Http)?);
    strict(&mesh, "shop", "  portLevelMtls:\n    8080:\n      mode: PERMISSIVE\n")?;
    mesh.start()?;

    for (shut, open) in [(shut.v4(), open.v4()), (shut.v6(), open.v6())] {
        allowed(&member, shut)?;
        allowed(&member, open)?;
        for outside in &outsiders {
            allowed(outside, open)?;
            let record = denied(&mesh, outside, &web, shut, "strict-mtls")?;
            ensure!(record.policy.contains("PeerAuthentication shop/strict"), "{record}");
        }
    }
    ensure!(shut.accepted() == 2, "plaintext reached the application: {} came", shut.accepted());
    Ok(())
}

fn the_whole_mesh_is_ruled_from_the_root_namespace(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let other = mesh.pod(PodSpec::new("bank/vault").on(1))?;
    let (good, bad) = (mesh.pod(PodSpec::new("shop/good"))?, mesh.pod(PodSpec::new("shop/bad"))?);
    let (web_http, vault_http) = (web.serve(80, Serve::Http)?, other.serve(80, Serve::Http)?);
    policy(
        &mesh,
        "aquifer-system/outlaws",
        "  action: DENY\n  rules:\n  - from: [{source: {principals: ['*/sa/bad']}}]\n",
    )?;
    policy(&mesh, "shop/everyone", "  action: ALLOW\n  rules: [{}]\n")?;
    mesh.start()?;

    for (pod, to) in [(&web, web_http.v4()), (&other, vault_http.v4())] {
        allowed(&good, to)?;
        denied(&mesh, &bad, pod, to, "aquifer-system/outlaws")?;
    }
    Ok(())
}

fn an_unreadable_policy_denies(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let web = mesh.pod(PodSpec::new("shop/web").on(1))?;
    let bank = mesh.pod(PodSpec::new("bank/vault").on(1))?;
    let client = mesh.pod(PodSpec::new("shop/client"))?;
    let (http, vault) = (web.serve(80, Serve::Http)?, bank.serve(80, Serve::Http)?);
    policy(&mesh, "shop/typo", "  action: DENI\n  rules: [{}]\n")?;
    policy(&mesh, "bank/custom", "  action: CUSTOM\n  provider: {name: oracle}\n  rules: [{}]\n")?;
    mesh.start()?;

    denied(&mesh, &client, &web, http.v4(), "shop/typo")?;
    denied(&mesh, &client, &bank, vault.v4(), "unknown-policy")?;
    let log = std::fs::read_to_string(mesh.node(1).log())?;
    ensure!(log.contains("policy-shop-typo.yaml") && log.contains("DENI"), "the log does not name the fault");

    policy(&mesh, "shop/typo", "  action: DENY\n  rules:\n  - to: [{operation: {ports: ['1']}}]\n")?;
    wait_for("the mended policy to hold", CHANGE_LIMIT, || Ok(client.http_get(http.v4()).ok()))?;
    // Broken once more: the last good state stays.
    policy(&mesh, "shop/typo", "  action: DENI\n")?;
    wait_for("the fault to be told", CHANGE_LIMIT, || {
        Ok((mesh.node(1).metrics()?.sum("aquifer_source_problems", &[]) > 0.0).then_some(()))
    })?;
    allowed(&client, http.v4())
}
