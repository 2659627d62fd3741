//! Policies as text, and calls with the verdict that they must get.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use aquifer_integration::{Breach, Conn, FlowRecord, Mesh, Pod, mesh::CHANGE_LIMIT};

/// An AuthorizationPolicy `namespace/name`; `spec` is YAML that is indented by two.
pub(crate) fn policy(mesh: &Mesh, name: &str, spec: &str) -> Result<()> {
    let (namespace, short) = name.split_once('/').context("NAMESPACE/NAME")?;
    let yaml = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {short}\n  namespace: {namespace}\nspec:\n{spec}"
    );
    mesh.policy(&format!("policy-{namespace}-{short}"), &yaml)
}

pub(crate) fn strict(mesh: &Mesh, namespace: &str, ports: &str) -> Result<()> {
    let yaml = format!(
        "apiVersion: aquifer.dev/v1alpha1\nkind: PeerAuthentication\nmetadata:\n  name: strict\n  namespace: {namespace}\nspec:\n  selector:\n    matchLabels:\n      app: web\n  mtls:\n    mode: STRICT\n{ports}"
    );
    mesh.policy("peers-strict", &yaml)
}

/// The call is answered.
pub(crate) fn allowed(client: &Pod, to: SocketAddr) -> Result<()> {
    let reply = client.http_get(to).with_context(|| format!("{} calls {to}", client.full_name()))?;
    ensure!(reply.status == 200, "{} got {}", client.full_name(), reply.status);
    ensure!(
        reply.client.is_some_and(|seen| client.addresses().any(|address| address == seen.ip())),
        "the server saw {:?}",
        reply.client
    );
    Ok(())
}

/// The call is reset, and the server's node writes a record that says why (a reason's code, or a part of the policy's name).
pub(crate) fn denied(
    mesh: &Mesh,
    client: &Pod,
    server: &Pod,
    to: SocketAddr,
    why: &str,
) -> Result<FlowRecord> {
    match client.http_get(to) {
        Ok(_) => {
            return Err(Breach(format!("{} called {to}, which {why} forbids", client.full_name())).into());
        }
        Err(error) if error.is_cut() => {}
        Err(error) => bail!("{} is denied {to} by {error} instead of a reset", client.full_name()),
    }
    refusal(mesh, client, server, to, why)
}

/// The server's record of a connection that policy ended.
pub(crate) fn refusal(
    mesh: &Mesh,
    client: &Pod,
    server: &Pod,
    to: SocketAddr,
    why: &str,
) -> Result<FlowRecord> {
    let (from, at) = (client.full_name(), server.full_name());
    mesh.node(server.node())
        .wait_flow(CHANGE_LIMIT, |flow| {
            !flow.is_source()
                && flow.is_between(&from, &at)
                && flow.destination_address == Some(to)
                && flow.verdict == "denied"
                && (flow.reason.contains(why) || flow.policy.contains(why))
        })
        .with_context(|| format!("no record says that {from} is denied {to} by {why}"))
}

/// The connection, which stood, is reset because of an edit.
pub(crate) fn cut(conn: &mut Conn, why: &str) -> Result<()> {
    match conn.expect_reset() {
        Ok(()) => Ok(()),
        Err(what) if what.contains("too long") => {
            Err(Breach(format!("a connection lives on although {why} forbids it: {what}")).into())
        }
        Err(what) => bail!("{why} ends a connection with {what} instead of a reset"),
    }
}
