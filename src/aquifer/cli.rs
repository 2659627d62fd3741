//! The command line: every flag, with its default, its unit and its environment variable.

mod asking;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use asking::{
    CertificatesFlags, CheckFlags, CheckOutput, ClusterFlags, ConfigFlags, FlowsFlags, LogsCommand,
    LogsFlags, LogsLevelFlags, Output, StatusFlags, UpgradeFlags, VerdictFlag,
};

/// An ambient service mesh for Kubernetes: mutual TLS, identity and policy for pods, with nothing added to them.
#[derive(Debug, Parser)]
#[command(name = "aquifer", version, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the pods of one node: capture their traffic and carry it to their peers' nodes
    #[command(after_help = NODE_SIGNALS)]
    Node(Box<NodeFlags>),
    /// Serve a cluster: sign certificates for its nodes, and tell them what the mesh is
    Controller(Box<ControllerFlags>),
    /// Show the mesh at work on this machine, in under a minute: two nodes, four pods, real traffic (as root)
    Demo(DemoFlags),
    /// A pod's application in the demo
    #[command(hide = true)]
    DemoApp(DemoAppFlags),
    /// Print the manifests of the mesh, for `kubectl apply -f -`
    Install(InstallFlags),
    /// Print what `kubectl delete -f -` takes away again; pods leave the mesh first, and no connection is lost
    Uninstall(UninstallFlags),
    /// Show who is in the mesh, on which node, since when, and until when their certificates hold
    Status(StatusFlags),
    /// Show who calls whom, with which verdict and why, as it happens
    Flows(FlowsFlags),
    /// Look whether the cluster is ready for the mesh, or the mesh as it should be, and say what to do where not
    #[command(after_help = CHECK_CODES)]
    Check(CheckFlags),
    /// Say what would become of a call, by the cluster's objects or by a folder of manifests; nothing is sent
    #[command(after_help = EXPLAIN_CODES)]
    Explain(Box<ExplainFlags>),
    /// Show a pod's certificate and the roots that its node trusts
    Certificates(CertificatesFlags),
    /// Show what the node proxy has of a pod, or of everything, beside what the controller says; differences are marked
    #[command(after_help = CONFIG_CODES)]
    Config(ConfigFlags),
    /// See or change what the mesh's own pods write to their logs
    Logs(LogsFlags),
    /// Print the manifests of this version with the settings of the mesh that runs, for `kubectl apply -f -`
    Upgrade(UpgradeFlags),
    /// One end of the call that `check --probe` makes
    #[command(hide = true)]
    ProbeApp,
    /// Print the version
    Version,
    /// Print a completion script for a shell; names of pods, nodes and namespaces come from the cluster
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

const EXPLAIN_CODES: &str = "Exit code: 0 where the call is allowed, 1 where it is denied (at any endpoint), 2 where it leads nowhere or the \
question cannot be answered.";

const CHECK_CODES: &str =
    "Exit code: 0 where nothing is wrong, 1 where something is, 2 where the cluster cannot be asked.";

const CONFIG_CODES: &str =
    "Exit code: 0 where both say the same, 1 where they differ, 2 where they cannot be asked.";

const NODE_SIGNALS: &str = "Signals: SIGTERM or SIGINT stop and serve the last connections for --drain, a second one ends at once \
(pods stay captured and are refused until a node serves them again, or until --leave); SIGHUP upgrades: a second worker takes \
over while the first serves its last connections; SIGUSR2 un-enrols all pods and ends.";

#[derive(Debug, Args)]
pub(crate) struct NodeFlags {
    /// Name of the Node whose pods are served
    #[arg(long, env = "AQUIFER_NODE")]
    pub(crate) node: String,

    /// Folder of Kubernetes YAML: Namespaces, Pods, Services, EndpointSlices, Nodes, policies; edits take effect at once
    #[arg(long, env = "AQUIFER_MANIFESTS", required_unless_present_any = ["leave", "controller"])]
    pub(crate) manifests: Option<PathBuf>,

    /// Folder of the local certificate authority, as Istio's plugged-in CA (root-cert.pem, ca-cert.pem, ca-key.pem,
    /// cert-chain.pem); made when it is empty
    #[arg(long, env = "AQUIFER_CA_DIR", required_unless_present_any = ["leave", "controller"])]
    pub(crate) ca_dir: Option<PathBuf>,

    /// In a cluster, instead of the two folders: the controller, `https://HOST:PORT`, which tells the mesh and signs
    #[arg(long, env = "AQUIFER_CONTROLLER", conflicts_with_all = ["manifests", "ca_dir"])]
    pub(crate) controller: Option<String>,

    /// File with the token that says to the controller which node this is (audience aquifer-ca); read anew for each call
    #[arg(long, env = "AQUIFER_TOKEN", default_value = "/var/run/secrets/aquifer/token")]
    pub(crate) token: PathBuf,

    /// File with the roots that are trusted, in PEM; followed
    #[arg(long, env = "AQUIFER_ROOTS", default_value = "/var/run/secrets/aquifer-ca/root-cert.pem")]
    pub(crate) roots: PathBuf,

    /// Holds the node's lock and the record of what is enrolled
    #[arg(long, env = "AQUIFER_RUN_DIR", default_value = "/run/aquifer")]
    pub(crate) run_dir: PathBuf,

    /// Folder of the container runtime's network configurations: the CNI plug-in is put behind the network there, and pods begin
    /// once they are in the mesh [default: no plug-in, pods are enrolled as soon as they are heard of]
    #[arg(long, env = "AQUIFER_CNI_CONF_DIR", requires = "cni_bin_dir")]
    pub(crate) cni_conf_dir: Option<PathBuf>,

    /// Folder of the container runtime's CNI plug-ins
    #[arg(long, env = "AQUIFER_CNI_BIN_DIR", requires = "cni_conf_dir")]
    pub(crate) cni_bin_dir: Option<PathBuf>,

    /// The CNI plug-in, a static program, which is copied into that folder
    #[arg(long, env = "AQUIFER_CNI_PROGRAM", default_value = "/aquifer-cni")]
    pub(crate) cni_program: PathBuf,

    /// Un-enrol all pods of the node (through its process if one runs), take the CNI plug-in away, then end
    #[arg(long)]
    pub(crate) leave: bool,

    #[command(flatten)]
    pub(crate) mesh: MeshFlags,

    /// Address of the admin pages, or `off`; keep it on loopback, it asks for no password
    #[arg(long, env = "AQUIFER_ADMIN_ADDR", default_value = "127.0.0.1:15000")]
    pub(crate) admin_addr: PageAddress,

    /// Address of the Prometheus metrics, or `off`
    #[arg(long, env = "AQUIFER_METRICS_ADDR", default_value = "0.0.0.0:15020")]
    pub(crate) metrics_addr: PageAddress,

    /// Address of the readiness page, or `off`
    #[arg(long, env = "AQUIFER_READY_ADDR", default_value = "0.0.0.0:15021")]
    pub(crate) ready_addr: PageAddress,

    /// Between two pods of this node: `direct` hands over inside the process once both identities are known and the
    /// policy was asked, `mtls` uses the tunnel
    #[arg(long, env = "AQUIFER_SAME_NODE", value_enum, default_value = "direct")]
    pub(crate) same_node: SameNodeFlag,

    /// Data-plane threads [default: the number of cores]
    #[arg(long, env = "AQUIFER_CORES", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) cores: Option<u16>,

    /// How long a half-closed connection may be idle before it is reset; 0 is for ever
    #[arg(long, env = "AQUIFER_HALF_CLOSE_IDLE", default_value = "1h", value_parser = duration)]
    pub(crate) half_close_idle: Duration,

    /// How long the last connections are served after SIGTERM
    #[arg(long, env = "AQUIFER_DRAIN", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,

    /// How long the last connections are served after an upgrade, or after another process took over
    #[arg(long, env = "AQUIFER_DRAIN_REPLACED", default_value = "1h", value_parser = duration)]
    pub(crate) drain_replaced: Duration,

    /// How long connections are carried after the mesh was removed from the cluster; then they are reset
    #[arg(long, env = "AQUIFER_DRAIN_REMOVED", default_value = "4s", value_parser = duration)]
    pub(crate) drain_removed: Duration,

    /// Take over from a process that serves this node already, without a port closed in between, instead of ending at once; and
    /// when another takes over from this one, wait for SIGTERM: for supervisors that start the next before they stop the first
    #[arg(long, env = "AQUIFER_TAKE_OVER")]
    pub(crate) take_over: bool,

    /// Name of what starts this process again when it ends, such as its pod's uid. A process that gave its node away and is started again
    /// under the same name waits, and serves only where no other does
    #[arg(long, env = "AQUIFER_INSTANCE")]
    pub(crate) instance: Option<String>,

    /// Lifetime of certificates, renewed at half of it; at least 10s
    #[arg(long, env = "AQUIFER_CERTIFICATE_LIFETIME", default_value = "24h", value_parser = duration)]
    pub(crate) certificate_lifetime: Duration,

    /// Bytes buffered for slow readers, all connections together [default: a quarter of the memory limit]
    #[arg(long, env = "AQUIFER_BUFFER_CAP")]
    pub(crate) buffer_cap: Option<u64>,

    /// Connections carried at once; past it new ones are reset
    #[arg(long, env = "AQUIFER_MAX_CONNECTIONS", default_value_t = 100_000)]
    pub(crate) max_connections: usize,

    /// Metric series kept per metric; past it calls count in one series labelled `other`
    #[arg(long, env = "AQUIFER_SERIES_LIMIT", default_value_t = 10_000)]
    pub(crate) series_limit: usize,

    /// Form of the log and of flow records on standard output
    #[arg(long, env = "AQUIFER_LOG_FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ControllerFlags {
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,

    #[command(flatten)]
    pub(crate) mesh: MeshFlags,

    /// Service accounts, NAMESPACE/NAME, whose pods are node proxies too: they are told the mesh, and get the identities of all pods on
    /// their node. Those of `aquifer-node` and `ztunnel` in aquifer-system always are
    #[arg(long = "node-account", env = "AQUIFER_NODE_ACCOUNTS", value_delimiter = ',')]
    pub(crate) node_accounts: Vec<String>,

    /// Take the taint `aquifer.dev/not-ready` off nodes whose proxy is ready; needs the right to patch nodes
    #[arg(long, env = "AQUIFER_UNTAINT_NODES")]
    pub(crate) untaint_nodes: bool,

    /// Address of the certificate and discovery services (TLS)
    #[arg(long, env = "AQUIFER_LISTEN_ADDR", default_value = "0.0.0.0:15012")]
    pub(crate) listen_addr: SocketAddr,

    /// Address of the admin pages, or `off`; keep it on loopback, it asks for no password
    #[arg(long, env = "AQUIFER_ADMIN_ADDR", default_value = "127.0.0.1:15000")]
    pub(crate) admin_addr: PageAddress,

    /// Address of the Prometheus metrics, or `off`
    #[arg(long, env = "AQUIFER_METRICS_ADDR", default_value = "0.0.0.0:15020")]
    pub(crate) metrics_addr: PageAddress,

    /// Address of the readiness page, or `off`
    #[arg(long, env = "AQUIFER_READY_ADDR", default_value = "0.0.0.0:15021")]
    pub(crate) ready_addr: PageAddress,

    /// Form of the log on standard output
    #[arg(long, env = "AQUIFER_LOG_FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct DemoFlags {
    /// Leave nodes, pods and manifests standing at the end, and print commands to try
    #[arg(long, conflicts_with = "clean")]
    pub(crate) keep: bool,

    /// Take away what `demo --keep` left
    #[arg(long)]
    pub(crate) clean: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoAppFlags {
    /// NAMESPACE/NAME of the pod, which answers tell
    #[arg(long)]
    pub(crate) name: String,

    /// Port that serves HTTP
    #[arg(long)]
    pub(crate) http: u16,

    /// Port that echoes
    #[arg(long)]
    pub(crate) echo: u16,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainFlags {
    /// Who calls: NS/POD, svc/NS/NAME (the first pod that serves it), a Service's host name or an IP
    pub(crate) from: String,

    /// What is called: the same with :PORT, which may be left out where a Service or the named ports of a pod leave no choice
    pub(crate) to: String,

    /// Folder of Kubernetes YAML, as for `aquifer node` [default: the live cluster is asked]
    #[arg(long, env = "AQUIFER_MANIFESTS", conflicts_with_all = ["kubeconfig", "context"])]
    pub(crate) manifests: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,

    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,

    #[command(flatten)]
    pub(crate) mesh: MeshFlags,
}

#[derive(Debug, Default, Args)]
pub(crate) struct InstallFlags {
    /// Image of all pods of the mesh [default: the one of this version]
    #[arg(long)]
    pub(crate) image: Option<String>,

    /// Replicas of the controller [default: 2]
    #[arg(long)]
    pub(crate) controller_replicas: Option<u16>,

    /// Trust domain of identities [default: cluster.local]
    #[arg(long)]
    pub(crate) trust_domain: Option<String>,

    /// Cluster id, first part of workload names [default: Kubernetes]
    #[arg(long)]
    pub(crate) cluster_id: Option<String>,

    /// DNS domain of services [default: cluster.local]
    #[arg(long)]
    pub(crate) cluster_domain: Option<String>,

    /// Form of logs and flow records [default: text]
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,

    /// Service account, NAMESPACE/NAME, whose pods are node proxies too, besides those of `aquifer-node` and `ztunnel` in aquifer-system;
    /// several with commas between
    #[arg(long)]
    pub(crate) node_account: Option<String>,

    /// Take the taint `aquifer.dev/not-ready` off nodes whose proxy is ready, for nodes that are registered with it so that no pod
    /// begins there before
    #[arg(long)]
    pub(crate) untaint_nodes: bool,

    /// Folder of the nodes with the CNI configuration [default: /etc/cni/net.d]
    #[arg(long)]
    pub(crate) cni_conf_dir: Option<String>,

    /// Folder of the nodes with CNI plug-ins [default: /opt/cni/bin]
    #[arg(long)]
    pub(crate) cni_bin_dir: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallFlags {
    /// Leave the definitions of the mesh's own kinds, and with them the policies that were written
    #[arg(long)]
    pub(crate) keep_policies: bool,
}

/// What all commands that read a mesh agree on.
#[derive(Clone, Debug, Args)]
pub(crate) struct MeshFlags {
    /// Trust domain of identities
    #[arg(long, env = "AQUIFER_TRUST_DOMAIN", default_value = "cluster.local")]
    pub(crate) trust_domain: String,

    /// Further trust domains whose callers are accepted
    #[arg(long = "trust-domain-alias", env = "AQUIFER_TRUST_DOMAIN_ALIASES", value_delimiter = ',')]
    pub(crate) trust_domain_aliases: Vec<String>,

    /// Cluster id, first part of workload names
    #[arg(long, env = "AQUIFER_CLUSTER_ID", default_value = "Kubernetes")]
    pub(crate) cluster_id: String,

    /// DNS domain of services
    #[arg(long, env = "AQUIFER_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,

    /// Namespace whose policies apply to the whole mesh
    #[arg(long, env = "AQUIFER_ROOT_NAMESPACE", default_value = "aquifer-system")]
    pub(crate) root_namespace: String,

    /// Networks in which a destination that is not known waits at most 5 s and is then refused, instead of leaving in
    /// clear; `none` turns the rule off [default: the podCIDRs of the Nodes]
    #[arg(long, env = "AQUIFER_MESH_NETWORKS", value_delimiter = ',')]
    pub(crate) mesh_networks: Option<Vec<String>>,
}

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageAddress(pub(crate) Option<SocketAddr>);

impl FromStr for PageAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| "write IP:PORT, or off".to_owned())
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SameNodeFlag {
    Direct,
    Mtls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Reads `90s`, `5m`, `1h`, `30d`, `250ms` or `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let wrong = || "write a whole number and a unit: 250ms, 90s, 5m, 1h".to_owned();
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs).ok_or_else(wrong);
    match unit {
        "" if number == 0 => Ok(Duration::ZERO),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(24 * 3600),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "h", "1.5s", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong} was read");
        }
    }

    #[test]
    fn pages_can_be_off() {
        assert_eq!("off".parse(), Ok(PageAddress(None)));
        assert!("localhost:1".parse::<PageAddress>().is_err());
        assert_eq!("127.0.0.1:0".parse(), Ok(PageAddress(Some(([127, 0, 0, 1], 0).into()))));
    }
}
