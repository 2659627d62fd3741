//! `aquifer config POD|NODE`: what the data plane has, beside what the controller says.

mod compare;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use aquifer_k8s::{Pod, names};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;

use crate::cli::ConfigFlags;
use crate::cluster::{self, name_of, node_of};
use crate::table::{Paint, Table};
use compare::{Compared, State, compare, of_pod};

/// News are on their way for so long; what differs still differs after it.
const SETTLE: Duration = Duration::from_millis(1500);

/// Exit status where a node or a controller cannot be asked.
const UNREACHABLE: u8 = 2;

/// Two sides of one thing.
#[derive(Debug, Serialize)]
struct Sides {
    /// The pod, or the node.
    of: String,
    node: String,
    /// Pod of the node proxy.
    proxy: String,
    /// Pod of the controller that was asked.
    controller: String,
    /// What the node says of the pod's place in the mesh.
    enrolment: Option<Value>,
    objects: Vec<Compared>,
    /// Lists that have more than a page shows, so that they were not compared.
    unseen: Vec<String>,
}

/// What is asked for.
enum What {
    Pod { namespace: String, name: String },
    Node,
}

/// Prints both sides. The code is 0 where they say the same.
pub(crate) async fn run(flags: &ConfigFlags) -> anyhow::Result<ExitCode> {
    let client = cluster::client(&flags.ask.cluster).await?;
    let (what, node) = meant(&client, flags).await?;
    let asked = async {
        let mut sides = Sides::of(&client, &what, &node).await?;
        if sides.differ() {
            tokio::time::sleep(SETTLE).await;
            sides = Sides::of(&client, &what, &node).await?;
        }
        anyhow::Ok(sides)
    };
    let mut sides = match asked.await {
        Ok(sides) => sides,
        Err(error) => {
            eprintln!("aquifer: {error:#}");
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    let differ = sides.differ();
    if flags.differences {
        sides.objects.retain(|object| object.state != State::Same);
    }
    flags.ask.output.print(&sides, || sides.show())?;
    Ok(if differ { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn meant(client: &Client, flags: &ConfigFlags) -> anyhow::Result<(What, String)> {
    if let Some(node) = flags.what.strip_prefix("node/") {
        return Ok((What::Node, node.to_owned()));
    }
    let (namespace, name) = cluster::pod_name(client, flags.namespace.as_deref(), &flags.what)?;
    let pod = Api::<Pod>::namespaced(client.clone(), &namespace).get_opt(&name).await?;
    let pod =
        pod.with_context(|| format!("there is no pod {namespace}/{name}; a node is written node/NAME"))?;
    let node = node_of(&pod).to_owned();
    if node.is_empty() {
        bail!("pod {namespace}/{name} is on no node yet");
    }
    Ok((What::Pod { namespace, name }, node))
}

impl Sides {
    async fn of(client: &Client, what: &What, node: &str) -> anyhow::Result<Self> {
        let proxy = name_of(&cluster::proxy_of(client, node).await?).to_owned();
        let controller = controller_of(client, node).await?;
        let mut sides = Self {
            of: format!("node {node}"),
            node: node.to_owned(),
            proxy,
            controller,
            enrolment: None,
            objects: Vec::new(),
            unseen: Vec::new(),
        };
        match what {
            What::Node => {
                let [has, told] = sides.pages(client, "/snapshot").await?;
                sides.objects = compare(&has, &told);
            }
            What::Pod { namespace, name } => {
                let [has, told] = sides.pages(client, &format!("/snapshot/{namespace}")).await?;
                let root = cluster::get(client, &sides.controller, "/config").await?;
                let root = root["root_namespace"].as_str().unwrap_or(names::SYSTEM_NAMESPACE).to_owned();
                let mesh_wide = match root == *namespace {
                    true => [Value::Null, Value::Null],
                    false => sides.pages(client, &format!("/snapshot/{root}")).await?,
                };
                sides.of = format!("pod {namespace}/{name}");
                sides.objects = of_pod(name, [&has, &told], [&mesh_wide[0], &mesh_wide[1]]);
                let enrolments = cluster::get(client, &sides.proxy, "/enrolments").await?;
                let full = format!("{namespace}/{name}");
                sides.enrolment =
                    enrolments.as_array().into_iter().flatten().find(|pod| pod["pod"] == *full).cloned();
            }
        }
        Ok(sides)
    }

    /// The page of the node, and that of the controller.
    async fn pages(&mut self, client: &Client, path: &str) -> anyhow::Result<[Value; 2]> {
        let (has, told) = tokio::try_join!(
            cluster::get(client, &self.proxy, path),
            cluster::get(client, &self.controller, path)
        )?;
        for page in [&has, &told] {
            for (list, count) in page["counts"].as_object().into_iter().flatten() {
                let shown = page[list].as_array().map_or(0, Vec::len);
                if count.as_u64().is_some_and(|count| count > shown as u64) && !self.unseen.contains(list) {
                    self.unseen.push(list.clone());
                }
            }
        }
        Ok([has, told])
    }

    fn differ(&self) -> bool {
        self.objects.iter().any(|object| object.state != State::Same)
    }

    fn show(&self) {
        let paint = Paint::of_stdout();
        println!("{}: {} beside {}", self.of, self.proxy, self.controller);
        if let Some(enrolment) = &self.enrolment {
            let said = |key: &str| enrolment[key].as_str().unwrap_or_default();
            println!("{}; it proves to be {}", said("why"), said("identity"));
        } else if self.of.starts_with("pod ") {
            println!("{} is not in the mesh, as its node sees it", self.of);
        }
        let rows = self
            .objects
            .iter()
            .map(|object| vec![object.kind.clone(), object.name.clone(), object.state.to_string()]);
        let table = Table { heading: vec!["KIND", "NAME", "STATE"], numbers: 0, rows: rows.collect() };
        table.lines("", paint).iter().for_each(|line| println!("{line}"));
        for object in self.objects.iter().filter(|object| !object.fields.is_empty()) {
            println!("\n{} {}", object.kind, paint.strong(&object.name));
            for field in &object.fields {
                println!(
                    "  {}\n    node        {}\n    controller  {}",
                    field.name,
                    paint.bad(&field.node),
                    paint.good(&field.controller)
                );
            }
        }
        for list in &self.unseen {
            println!(
                "\n{list}: there are more than a page shows, so some may be missing here on either side"
            );
        }
    }
}

/// The controller that the node listens to; where it listens to none, any that answers.
async fn controller_of(client: &Client, node: &str) -> anyhow::Result<String> {
    let mut answers = None;
    let own = format!("~{node}.");
    for controller in cluster::pods(client, names::CONTROLLER).await? {
        let Ok(page) = cluster::get(client, name_of(&controller), "/discovery").await else { continue };
        let listeners = page["listeners"].as_array().into_iter().flatten();
        let heard = listeners.filter_map(|listener| listener["id"].as_str()).any(|id| id.contains(&own));
        if heard {
            return Ok(name_of(&controller).to_owned());
        }
        answers.get_or_insert_with(|| name_of(&controller).to_owned());
    }
    answers.context("no controller answers; see `aquifer check`")
}
