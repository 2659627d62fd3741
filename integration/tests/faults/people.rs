//! What people do and want to see: duplicate addresses, broken edits, the admin pages.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use aquifer_integration::{PodSpec, Serve, Stage, wait_for};

use super::{SOON, lines, wait_line};

pub(crate) fn two_pods_with_one_address_are_told(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    mesh.start()?;
    let duplicates = || -> Result<String> {
        let snapshot = mesh.node(0).admin("/snapshot")?;
        Ok(snapshot["duplicateAddresses"].to_string())
    };
    ensure!(duplicates()? == "[]", "{}", duplicates()?);
    mesh.policy(
        "twin",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: twin\n  namespace: shop\n  uid: twin-1\nspec:\n  nodeName: elsewhere\n  \
             containers:\n  - name: app\n    image: none\nstatus:\n  phase: Running\n  podIP: {}\n",
            server.v4()
        ),
    )?;
    let told = wait_for("the duplicate to be told", SOON, || {
        let told = duplicates()?;
        Ok((told != "[]").then_some(told))
    })?;
    for word in [&server.v4().to_string(), "server", "twin"] {
        ensure!(told.contains(word), "{word} is not in {told}");
    }
    mesh.manifests().remove("twin")?;
    wait_for("the duplicate to be gone", SOON, || Ok((duplicates()? == "[]").then_some(())))?;
    client.connect(echo.v4())?.ping()?;
    Ok(())
}

pub(crate) fn a_broken_edit_changes_nothing(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let friend = mesh.pod(PodSpec::new("shop/friend").on(0))?;
    let foe = mesh.pod(PodSpec::new("shop/foe").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    let policy = |action: &str, who: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: friends\n  namespace: shop\nspec:\n  \
             action: {action}\n  rules:\n  - from:\n    - source:\n        principals: [\"cluster.local/ns/shop/sa/{who}\"]\n"
        )
    };
    mesh.policy("friends", &policy("ALLOW", "friend"))?;
    mesh.start()?;
    let holds = || -> Result<()> {
        friend.connect(echo.v4())?.ping().context("the friend is shut out")?;
        let called = foe.connect(echo.v4()).and_then(|mut conn| conn.ping());
        ensure!(called.is_err(), "the foe is let in");
        Ok(())
    };
    holds()?;
    let problems = || -> Result<f64> { Ok(mesh.node(1).metrics()?.sum("aquifer_source_problems", &[])) };
    ensure!(problems()? == 0.0, "{} problems before the edit", problems()?);
    // Neither YAML, nor a policy, nor a file with something in it.
    let broken = [
        (policy("ALLOW", "foe").replace("spec:", "spec: [:"), "friends.yaml:6"),
        (policy("ALLOW", "foe").replace("principals: [", "principals: 7 #"), "friends.yaml:11"),
    ];
    for (text, place) in broken {
        mesh.manifests().overwrite("friends", &text)?;
        let line = wait_line(mesh.node(1), &["ERROR", place])?;
        wait_for("the problem to be counted", SOON, || Ok((problems()? == 1.0).then_some(())))?;
        holds().with_context(|| format!("after {line}"))?;
    }
    mesh.manifests().overwrite("friends", "")?;
    holds().context("while the file is empty")?;
    mesh.manifests().overwrite("friends", &policy("ALLOW", "foe"))?;
    wait_for("the mended file to hold", SOON, || {
        let called = foe.connect(echo.v4()).and_then(|mut conn| conn.ping());
        Ok((called.is_ok() && problems()? == 0.0).then_some(()))
    })?;
    ensure!(
        friend.connect(echo.v4()).and_then(|mut conn| conn.ping()).is_err(),
        "the old policy still holds"
    );
    Ok(())
}

pub(crate) fn the_admin_pages_tell_all_but_keys(stage: &mut Stage) -> Result<()> {
    let mut mesh = stage.mesh()?;
    let client = mesh.pod(PodSpec::new("shop/client").on(0))?;
    let server = mesh.pod(PodSpec::new("shop/server").on(1))?;
    let echo = server.serve(7, Serve::Echo)?;
    mesh.start()?;
    let mut standing = client.connect(echo.v4())?;
    standing.ping()?;
    let node = mesh.node(0);

    let config = node.admin("/config")?;
    ensure!(config["node"] == "node-1" && config["carry"]["max_connections"].is_u64(), "{config}");
    let snapshot = node.admin("/snapshot")?;
    let workloads = snapshot["workloads"].as_array().map_or(0, Vec::len);
    ensure!(workloads == 2 && snapshot["version"].is_u64(), "{snapshot}");
    let certificates = node.admin("/certificates")?;
    ensure!(certificates.to_string().contains(&client.identity()), "{certificates}");
    ensure!(certificates["roots"].as_array().is_some_and(|roots| roots.len() == 1), "{certificates}");
    let pools = node.admin("/pools")?;
    ensure!(
        pools[0]["destinationIdentity"].to_string().contains("shop") && pools.to_string().contains("[1]"),
        "{pools}"
    );
    let enrolments = node.admin("/enrolments")?;
    ensure!(enrolments[0]["pod"] == "shop/client" && enrolments[0]["ready"] == true, "{enrolments}");

    let key = fs::read_to_string(mesh.ca_dir().join("ca-key.pem"))?;
    let secret = key.lines().nth(1).context("the CA's key has no second line")?;
    let log = fs::read_to_string(node.log())?;
    let pages = [config, snapshot, certificates, pools, enrolments].map(|page| page.to_string());
    for text in pages.iter().chain([&log]) {
        ensure!(!text.contains("PRIVATE KEY") && !text.contains(secret), "a key is shown: {text}");
    }

    ensure!(lines(node, &["\"DEBUG\""])?.is_empty(), "debug lines before they were asked for");
    let reply = node.admin_post("/logging?level=debug")?;
    ensure!(reply.status == 200, "{reply:?}");
    client.connect(echo.v4())?.ping()?;
    wait_line(node, &["\"DEBUG\""])?;
    ensure!(node.admin_post("/logging?level=flow%3Dloud")?.status == 400, "nonsense was taken as a level");
    let from_pod = client.connect((mesh.bed().nodes()[0].wire_addresses()[0], 15000).into());
    ensure!(from_pod.and_then(|mut conn| conn.get("/config")).is_err(), "a pod reads the admin pages");
    Ok(())
}
