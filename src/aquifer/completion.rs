//! Completion: a shell asks the program itself, which knows its flags and asks the cluster for names.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use aquifer_k8s::{Namespace, Node, Pod};
use clap::CommandFactory;
use clap_complete::engine::complete;
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, CompletionCandidate, Shell};
use kube::api::{Api, ListParams};
use kube::config::Kubeconfig;
use kube::{Client, ResourceExt};

use crate::cli::{Cli, ClusterFlags};
use crate::cluster;

/// Set by the scripts of [`script`], to the shell's name.
const ASKED: &str = "COMPLETE";

/// The name under which kubectl asks its plug-in `kubectl-aquifer` for completions.
const OF_KUBECTL: &str = "kubectl_complete-aquifer";

/// A person waits with a finger on the key.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names of one list at most.
const NAMES: u32 = 500;

/// Whether a shell asks, and no person.
pub(crate) fn asked() -> bool {
    std::env::var_os(ASKED).is_some_and(|shell| !shell.is_empty() && shell != "0") || by_kubectl()
}

fn by_kubectl() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new(OF_KUBECTL)))
}

/// Answers a shell, or kubectl, on standard output. The word after the last is completed.
pub(crate) fn answer() -> ExitCode {
    if !by_kubectl() {
        CompleteEnv::with_factory(Cli::command).bin("aquifer").complete();
        return ExitCode::FAILURE;
    }
    let mut words: Vec<OsString> = std::env::args_os().collect();
    words[0] = "aquifer".into();
    let last = words.len() - 1;
    for candidate in complete(&mut Cli::command(), words, last, None).unwrap_or_default() {
        println!("{}", candidate.get_value().to_string_lossy());
    }
    // Cobra's directive to a shell: no file names beside these.
    println!(":4");
    ExitCode::SUCCESS
}

/// Prints what a shell reads at its start.
///
/// # Errors
/// Nobody wrote completion for this shell.
pub(crate) fn script(shell: Shell) -> anyhow::Result<()> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let Some(shell) = shells.completer(&name) else { bail!("there is no completion for {name}") };
    let own = std::env::args_os().next().unwrap_or_else(|| "aquifer".into());
    let program = if Path::new(&own).components().count() > 1 {
        std::env::current_exe().context("path of this program")?.into_os_string()
    } else {
        own
    };
    shell.write_registration(
        ASKED,
        "aquifer",
        "aquifer",
        &program.to_string_lossy(),
        &mut std::io::stdout(),
    )?;
    Ok(())
}

pub(crate) fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let words = Words::of_this_process();
    let read = match &words.flags.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let contexts = read.map(|config| config.contexts).unwrap_or_default();
    beginning(current, contexts.into_iter().map(|context| context.name))
}

pub(crate) fn namespaces(current: &OsStr) -> Vec<CompletionCandidate> {
    beginning(current, listed(async |client, _| names(Api::<Namespace>::all(client)).await))
}

pub(crate) fn nodes(current: &OsStr) -> Vec<CompletionCandidate> {
    beginning(current, listed(async |client, _| names(Api::<Node>::all(client)).await))
}

pub(crate) fn pods(current: &OsStr) -> Vec<CompletionCandidate> {
    // `shop/we` asks for names of another namespace than the one of the flag.
    let written =
        current.to_str().and_then(|word| word.split_once('/')).map(|(namespace, _)| namespace.to_owned());
    let found = listed(async |client, namespace| {
        let of = written.clone().or(namespace).unwrap_or_else(|| client.default_namespace().to_owned());
        let found = names(Api::<Pod>::namespaced(client, &of)).await?;
        let full = |name: String| if written.is_some() { format!("{of}/{name}") } else { name };
        Ok(found.into_iter().map(full).collect())
    });
    beginning(current, found)
}

pub(crate) fn pods_and_nodes(current: &OsStr) -> Vec<CompletionCandidate> {
    match current.to_str().and_then(|word| word.strip_prefix("node/")) {
        Some(rest) => nodes(OsStr::new(rest)).into_iter().map(|node| node.add_prefix("node/")).collect(),
        None => pods(current),
    }
}

/// Asks the cluster that the flags typed so far mean; nothing where it does not answer at once.
fn listed(ask: impl AsyncFn(Client, Option<String>) -> kube::Result<Vec<String>>) -> Vec<String> {
    let words = Words::of_this_process();
    let asked = cluster::blocking(async {
        let names = async { Ok(ask(cluster::client(&words.flags).await?, words.namespace).await?) };
        tokio::time::timeout(PATIENCE, names).await?
    });
    asked.unwrap_or_default()
}

async fn names<K>(api: Api<K>) -> kube::Result<Vec<String>>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + kube::Resource,
{
    let found = api.list_metadata(&ListParams::default().limit(NAMES)).await?;
    Ok(found.items.iter().map(ResourceExt::name_any).collect())
}

fn beginning(current: &OsStr, names: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    names.into_iter().filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
}

/// What was typed so far about the cluster.
#[derive(Debug, Default)]
struct Words {
    flags: ClusterFlags,
    namespace: Option<String>,
}

impl Words {
    fn of_this_process() -> Self {
        Self::of(std::env::args())
    }

    fn of(words: impl Iterator<Item = String>) -> Self {
        let mut found = Self::default();
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (word, words.peek().cloned()),
            };
            match flag.as_str() {
                "--kubeconfig" => found.flags.kubeconfig = value.map(Into::into),
                "--context" => found.flags.context = value,
                "-n" | "--namespace" => found.namespace = value,
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_the_one_that_was_typed() {
        let typed =
            ["aquifer", "config", "-n", "shop", "--context=prod", "--kubeconfig", "/k"].map(str::to_owned);
        let words = Words::of(typed.into_iter());
        assert_eq!(words.namespace.as_deref(), Some("shop"));
        assert_eq!(words.flags.context.as_deref(), Some("prod"));
        assert_eq!(words.flags.kubeconfig, Some("/k".into()));
    }

    #[test]
    fn only_what_begins_so_is_offered() {
        let found = beginning(OsStr::new("sh"), ["shop".to_owned(), "bank".to_owned()]);
        assert_eq!(found.iter().map(CompletionCandidate::get_value).collect::<Vec<_>>(), ["shop"]);
    }

    #[test]
    fn commands_and_flags_are_completed_without_a_cluster() {
        let words = ["aquifer", "check", "--fail"].map(OsString::from).to_vec();
        let found = complete(&mut Cli::command(), words, 2, None).unwrap();
        let found: Vec<_> = found.iter().map(|candidate| candidate.get_value().to_owned()).collect();
        assert_eq!(found, ["--fail-on-warning", "--fail-if-expiring-within"]);
    }
}
