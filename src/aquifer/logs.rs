//! `aquifer logs level`: how much the mesh's own pods write, seen and changed while they run.

use std::process::ExitCode;

use anyhow::bail;
use aquifer_k8s::{Pod, names};
use hyper::Method;
use kube::Client;
use serde::Serialize;

use crate::cli::LogsLevelFlags;
use crate::cluster::{self, name_of, node_of};
use crate::table::{Paint, Table};

/// The filter of one pod.
#[derive(Debug, Serialize)]
struct Filter {
    pod: String,
    node: String,
    filter: Option<String>,
    error: Option<String>,
}

/// Shows the filters, or sets them first. The code is 1 where a pod did not answer or did not take the filter.
pub(crate) async fn run(flags: &LogsLevelFlags) -> anyhow::Result<ExitCode> {
    let client = cluster::client(&flags.ask.cluster).await?;
    let mut filters = Vec::new();
    for pod in meant(&client, flags).await? {
        let (method, path) = match &flags.filter {
            Some(filter) => (Method::POST, format!("/logging?level={}", encoded(filter))),
            None => (Method::GET, "/logging".to_owned()),
        };
        let (pod, node) = (name_of(&pod).to_owned(), node_of(&pod).to_owned());
        filters.push(match cluster::page(&client, &pod, &method, &path).await {
            Ok(page) => {
                let filter = String::from_utf8_lossy(&page.text).trim().to_owned();
                Filter { pod, node, filter: Some(filter), error: None }
            }
            Err(failure) => Filter { pod, node, filter: None, error: Some(failure.to_string()) },
        });
    }
    let failed = filters.iter().any(|filter| filter.error.is_some());
    flags.ask.output.print(&filters, || show(&filters))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn meant(client: &Client, flags: &LogsLevelFlags) -> anyhow::Result<Vec<Pod>> {
    let mut meant = Vec::new();
    if flags.controller || flags.node.is_empty() {
        meant.extend(cluster::pods(client, names::CONTROLLER).await?);
    }
    if !flags.controller || !flags.node.is_empty() {
        let proxies = cluster::pods(client, names::NODE).await?;
        if let Some(node) = flags.node.iter().find(|node| !proxies.iter().any(|pod| node_of(pod) == *node)) {
            bail!("no proxy of the mesh runs on node {node:?}");
        }
        let wanted = |pod: &Pod| flags.node.is_empty() || flags.node.iter().any(|node| node == node_of(pod));
        meant.extend(proxies.into_iter().filter(wanted));
    }
    if meant.is_empty() {
        bail!("no pod of the mesh runs in {}", names::SYSTEM_NAMESPACE);
    }
    Ok(meant)
}

fn show(filters: &[Filter]) {
    let paint = Paint::of_stdout();
    let rows = filters.iter().map(|each| {
        let said = each.filter.clone().or(each.error.clone()).unwrap_or_default();
        vec![each.pod.clone(), each.node.clone(), said]
    });
    let table = Table { heading: vec!["POD", "NODE", "FILTER"], numbers: 0, rows: rows.collect() };
    table.lines("", paint).iter().for_each(|line| println!("{line}"));
}

/// Percent-encoded, as a value of a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_one_value_of_the_query() {
        assert_eq!(encoded("info,flow=off"), "info%2Cflow%3Doff");
        assert_eq!(encoded("a b&c"), "a%20b%26c");
    }
}
