//! `aquifer certificates POD`: what a pod can prove, until when, by whose word, and whom its node believes.

use std::process::ExitCode;

use anyhow::{Context, bail};
use aquifer_k8s::{Pod, names};
use jiff::Timestamp;
use kube::Api;
use serde::{Deserialize, Serialize};

use crate::cli::CertificatesFlags;
use crate::cluster::{self, name_of, node_of};
use crate::status::span;
use crate::table::{Paint, Table};

/// A node's page of certificates.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Held {
    #[serde(default)]
    pub(crate) roots: Vec<Root>,
    #[serde(default)]
    pub(crate) certificates: Vec<Leaf>,
}

/// A root that is trusted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Root {
    pub(crate) id: String,
    pub(crate) subject: String,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
}

/// A certificate that a node holds for its pods.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) identity: String,
    pub(crate) serial: String,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) renew_at: i64,
    pub(crate) issuer: String,
    pub(crate) last_error: Option<String>,
}

/// What is shown of a pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    pod: String,
    node: String,
    identity: String,
    serial: String,
    issuer: String,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    renewed_at: Option<Timestamp>,
    last_error: Option<String>,
    roots: Vec<Root>,
    /// Roots that a controller tells of and the node does not trust, or the other way round.
    root_differences: Vec<String>,
}

/// Prints the certificate of a pod. The code is 1 where it has ended or could not be renewed.
pub(crate) async fn run(flags: &CertificatesFlags) -> anyhow::Result<ExitCode> {
    let client = cluster::client(&flags.ask.cluster).await?;
    let (namespace, name) = cluster::pod_name(&client, flags.namespace.as_deref(), &flags.pod)?;
    let pod = Api::<Pod>::namespaced(client.clone(), &namespace).get_opt(&name).await?;
    let pod = pod.with_context(|| format!("there is no pod {namespace}/{name}"))?;
    let node = node_of(&pod);
    if node.is_empty() {
        bail!("pod {namespace}/{name} is on no node yet");
    }
    let proxy = cluster::proxy_of(&client, node).await?;
    let enrolments = cluster::get(&client, name_of(&proxy), "/enrolments").await?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let enrolled = enrolments.as_array().into_iter().flatten().find(|pod| pod["uid"] == uid);
    let Some(enrolled) = enrolled else {
        bail!(
            "pod {namespace}/{name} is not in the mesh, so it has no certificate: kubectl label namespace {namespace} {}={}",
            names::MESH_LABEL,
            names::MESH_AMBIENT
        )
    };
    let identity = enrolled["identity"].as_str().unwrap_or_default().to_owned();
    let held: Held = serde_json::from_value(cluster::get(&client, name_of(&proxy), "/certificates").await?)?;
    let Some(leaf) = held.certificates.iter().find(|leaf| leaf.identity == identity) else {
        bail!(
            "node {node} has no certificate for {identity} yet: {}",
            enrolled["why"].as_str().unwrap_or_default()
        )
    };
    let time = |seconds| Timestamp::from_second(seconds).ok();
    let shown = Shown {
        pod: format!("{namespace}/{name}"),
        node: node.to_owned(),
        identity,
        serial: leaf.serial.clone(),
        issuer: leaf.issuer.clone(),
        not_before: time(leaf.not_before),
        not_after: time(leaf.not_after),
        renewed_at: time(leaf.renew_at),
        last_error: leaf.last_error.clone(),
        root_differences: differences(&client, &held.roots).await,
        roots: held.roots,
    };
    let now = Timestamp::now();
    let well = shown.last_error.is_none() && shown.not_after.is_some_and(|ends| ends > now);
    flags.ask.output.print(&shown, || shown.show(now))?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the first controller that answers says otherwise about roots.
async fn differences(client: &kube::Client, trusted: &[Root]) -> Vec<String> {
    for controller in cluster::pods(client, names::CONTROLLER).await.unwrap_or_default() {
        let Ok(page) = cluster::get(client, name_of(&controller), "/certificates").await else { continue };
        let Ok(told) = serde_json::from_value::<Held>(page) else { continue };
        let lacks = |of: &[Root], root: &Root| !of.iter().any(|other| other.id == root.id);
        let missing = told.roots.iter().filter(|root| lacks(trusted, root));
        let more = trusted.iter().filter(|root| lacks(&told.roots, root));
        let missing = missing.map(|root| format!("the node does not trust {:?} yet", root.subject));
        return missing.chain(more.map(|root| format!("the node still trusts {:?}", root.subject))).collect();
    }
    Vec::new()
}

impl Shown {
    fn show(&self, now: Timestamp) {
        let paint = Paint::of_stdout();
        let when = |time: Option<Timestamp>| time.map_or_else(String::new, |time| time.to_string());
        println!("pod          {} on node {}", self.pod, self.node);
        println!("identity     {}", paint.strong(&self.identity));
        println!("serial       {}", self.serial);
        println!("issuer       {}", self.issuer);
        println!("valid from   {}", when(self.not_before));
        match self.not_after {
            Some(ends) if ends > now => println!("valid until  {ends}, for {}", span(now, ends)),
            ends => println!("valid until  {}, {}", when(ends), paint.bad("it has ended")),
        }
        println!("renewed at   {}", when(self.renewed_at));
        if let Some(error) = &self.last_error {
            println!("last attempt {}", paint.bad(error));
        }
        let rows = self.roots.iter().map(|root| {
            let ends = Timestamp::from_second(root.not_after).ok();
            vec![root.subject.clone(), when(ends), root.id.clone()]
        });
        println!();
        let table = Table { heading: vec!["TRUSTED ROOT", "UNTIL", "ID"], numbers: 0, rows: rows.collect() };
        table.lines("", paint).iter().for_each(|line| println!("{line}"));
        for difference in &self.root_differences {
            println!("{} the controller says otherwise: {difference}", paint.bad("!"));
        }
    }
}
