//! Flags of the commands that ask a cluster, by kubectl's conventions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use super::duration;
use crate::completion;

/// Which cluster is asked, as kubectl has it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClusterFlags {
    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, or the pod's own service account]
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current one]
    #[arg(long, add = ArgValueCompleter::new(completion::contexts))]
    pub(crate) context: Option<String>,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
    Yaml,
}

impl Output {
    /// Prints an answer: for people with `text`, for machines as it is.
    ///
    /// # Errors
    /// It cannot be written as JSON or YAML.
    pub(crate) fn print(self, answer: &impl Serialize, text: impl FnOnce()) -> anyhow::Result<()> {
        match self {
            Self::Text => text(),
            Self::Json => println!("{}", serde_json::to_string_pretty(answer)?),
            Self::Yaml => print!("{}", serde_saphyr::to_string(&serde_json::to_value(answer)?)?),
        }
        Ok(())
    }
}

/// Whom to ask, and the form of the answer.
#[derive(Debug, Args)]
pub(crate) struct AskFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,

    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct StatusFlags {
    #[command(flatten)]
    pub(crate) ask: AskFlags,

    /// Only pods of this namespace [default: all]
    #[arg(short, long, add = ArgValueCompleter::new(completion::namespaces))]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FlowsFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,

    /// Only connections that begin or end in this namespace
    #[arg(short, long, add = ArgValueCompleter::new(completion::namespaces))]
    pub(crate) namespace: Option<String>,

    /// Only connections of this pod: NAME or NAMESPACE/NAME, its workload, identity or IP
    #[arg(long, add = ArgValueCompleter::new(completion::pods))]
    pub(crate) pod: Option<String>,

    /// Only connections whose other end is this, named in the same ways
    #[arg(long, add = ArgValueCompleter::new(completion::pods))]
    pub(crate) peer: Option<String>,

    /// Only connections that ended so
    #[arg(long, value_enum)]
    pub(crate) verdict: Option<VerdictFlag>,

    /// Form of the lines
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerdictFlag {
    Allowed,
    Denied,
    Failed,
}

impl VerdictFlag {
    /// The word of flow records.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,

    /// Before the installation: is the cluster fit for the mesh
    #[arg(long, conflicts_with = "probe")]
    pub(crate) pre: bool,

    /// Also make real calls: a short-lived pod on each node (at most 16) calls the one on the next, and the record of each call is read
    /// at both ends. The pods live in a namespace of their own, which goes at the end
    #[arg(long)]
    pub(crate) probe: bool,

    /// Try again until nothing is wrong, for so long at most
    #[arg(long, value_parser = duration, num_args = 0..=1, default_missing_value = "5m")]
    pub(crate) wait: Option<Duration>,

    /// Warnings count as errors
    #[arg(long)]
    pub(crate) fail_on_warning: bool,

    /// A root or certificate authority that ends within this time is an error [default: a warning within 30 days]
    #[arg(long, value_parser = duration)]
    pub(crate) fail_if_expiring_within: Option<Duration>,

    /// Form of the answer; `short` has only what is wrong
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: CheckOutput,
}

/// Form of the answer of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckOutput {
    Text,
    Short,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
pub(crate) struct CertificatesFlags {
    /// The pod: NAME, or NAMESPACE/NAME
    #[arg(add = ArgValueCompleter::new(completion::pods))]
    pub(crate) pod: String,

    #[command(flatten)]
    pub(crate) ask: AskFlags,

    /// Namespace of the pod [default: that of the kubeconfig's context]
    #[arg(short, long, add = ArgValueCompleter::new(completion::namespaces))]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFlags {
    /// A pod, NAME or NAMESPACE/NAME, or node/NAME for all that a node has
    #[arg(add = ArgValueCompleter::new(completion::pods_and_nodes))]
    pub(crate) what: String,

    #[command(flatten)]
    pub(crate) ask: AskFlags,

    /// Namespace of the pod [default: that of the kubeconfig's context]
    #[arg(short, long, add = ArgValueCompleter::new(completion::namespaces))]
    pub(crate) namespace: Option<String>,

    /// Only what differs
    #[arg(long)]
    pub(crate) differences: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsFlags {
    #[command(subcommand)]
    pub(crate) command: LogsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogsCommand {
    /// Show the log filter of the mesh's pods, or put another in force until they start anew
    Level(LogsLevelFlags),
}

#[derive(Debug, Args)]
pub(crate) struct LogsLevelFlags {
    /// The new filter: debug, or info,flow=off, as RUST_LOG has it [default: the filters of now are shown]
    pub(crate) filter: Option<String>,

    #[command(flatten)]
    pub(crate) ask: AskFlags,

    /// Only the proxy of this node; may be said several times
    #[arg(long, add = ArgValueCompleter::new(completion::nodes))]
    pub(crate) node: Vec<String>,

    /// Only the controller
    #[arg(long)]
    pub(crate) controller: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,

    /// Image of all pods of the mesh [default: the one of this version]
    #[arg(long)]
    pub(crate) image: Option<String>,

    /// Also from versions that are further away than one minor version, or newer than this one
    #[arg(long)]
    pub(crate) any_version: bool,

    /// Print nothing: wait until what was applied runs everywhere, and tell how far it is
    #[arg(long, value_parser = duration, num_args = 0..=1, default_missing_value = "10m")]
    pub(crate) wait: Option<Duration>,

    /// Print what an older version had and this one has not, for `kubectl delete -f -`
    #[arg(long, conflicts_with = "wait")]
    pub(crate) left_over: bool,
}
