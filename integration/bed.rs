//! A bed of nodes and pods as network namespaces, joined by a switch, gone when dropped.
//!
//! Node N (from 1) has the pod networks `10.N.0.0/24` and `fd00:N::/64` on a bridge, and reaches the other nodes over `wire0`
//! (`172.31.0.N`, `fd01::N`), which ends in a switch that is a namespace of its own. Pods route everything to their node. Nodes
//! know pod networks and nothing else: a packet to a Service address that nobody captured is refused as unreachable.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aquifer_sys::{
    NetNs, NetNsId,
    link::{self, Links, Via},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    pod::{self, Pod, PodSpec},
    wait::wait_for,
};

/// Which kinds of addresses pods have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Both.
    pub const DUAL: Self = Self { v4: true, v6: true };
    /// IPv4 only.
    pub const V4: Self = Self { v4: true, v6: false };
    /// IPv6 only.
    pub const V6: Self = Self { v4: false, v6: true };
}

/// What a bed is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// First part of the name of every namespace; the process id follows, so that several beds stand side by side.
    pub prefix: String,
    /// Number of nodes, 1 to 200.
    pub nodes: usize,
    /// Address families of pods that do not say otherwise.
    pub families: Families,
    /// MTU of every link, in bytes.
    pub mtu: u32,
    /// Directory of the namespaces' names.
    pub netns_dir: PathBuf,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            prefix: "aqbed".into(),
            nodes: 2,
            families: Families::DUAL,
            mtu: 1500,
            netns_dir: link::NETNS_DIR.into(),
        }
    }
}

/// A named network namespace that goes with the value, and the processes in it with it.
#[derive(Debug)]
pub(crate) struct Namespace {
    dir: PathBuf,
    name: String,
    ns: NetNs,
    gone: AtomicBool,
}

impl Namespace {
    fn create(dir: &Path, name: String) -> Result<Self> {
        let ns = link::create_netns(dir, &name)
            .with_context(|| format!("cannot make the network namespace {name} in {}", dir.display()))?;
        Ok(Self { dir: dir.into(), name, ns, gone: AtomicBool::new(false) })
    }

    pub(crate) fn ns(&self) -> &NetNs {
        &self.ns
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Kills what runs in it and takes the name away; once.
    pub(crate) fn remove(&self) {
        if !self.gone.swap(true, Ordering::Relaxed) {
            kill_inside(&HashSet::from([self.ns.id()]));
            if let Err(error) = link::delete_netns(&self.dir, &self.name) {
                tracing::warn!(name = self.name, %error, "cannot remove a network namespace");
            }
        }
    }

    fn keep(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether it was removed, or is to be left standing.
    pub(crate) fn is_done(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A node of a bed: namespace, bridge, addresses.
#[derive(Debug)]
pub struct BedNode {
    name: String,
    number: u8,
    namespace: Namespace,
    next_pod: u8,
    next_port: u32,
}

impl BedNode {
    /// Kubernetes name (`node-1`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn ns(&self) -> &NetNs {
        self.namespace.ns()
    }

    /// Name of its network namespace, for `ip netns exec`.
    pub fn netns_name(&self) -> &str {
        self.namespace.name()
    }

    /// Its addresses on the wire.
    pub fn wire_addresses(&self) -> [IpAddr; 2] {
        wire_addresses(self.number)
    }

    /// Its pod networks, as (network, prefix length).
    pub fn pod_networks(&self) -> [(IpAddr, u8); 2] {
        pod_networks(self.number)
    }
}

/// Nodes and pods. Everything it made goes when it is dropped.
#[derive(Debug)]
pub struct Bed {
    plan: Plan,
    prefix: String,
    // Pods before nodes before the switch: the order of removal.
    pods: Vec<Pod>,
    nodes: Vec<BedNode>,
    switch: Namespace,
    runtime: Option<Runtime>,
}

impl Bed {
    /// Builds the nodes and the wire between them. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN (or a [`sandbox`](crate::sandbox)).
    pub fn new(plan: Plan) -> Result<Self> {
        ensure!((1..=200).contains(&plan.nodes), "a bed has 1 to 200 nodes, not {}", plan.nodes);
        // One process may hold several beds.
        static BEDS: AtomicU32 = AtomicU32::new(0);
        let count = BEDS.fetch_add(1, Ordering::Relaxed);
        let prefix = match count {
            0 => format!("{}{}", plan.prefix, process::id()),
            _ => format!("{}{}.{count}", plan.prefix, process::id()),
        };
        let switch = Namespace::create(&plan.netns_dir, format!("{prefix}-switch"))?;
        let links = Links::open(switch.ns())?;
        links.bridge("switch0")?;
        links.up("switch0")?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("apps")
            .enable_all()
            .build()
            .context("cannot start the runtime of the applications")?;
        let mut bed =
            Self { prefix, pods: Vec::new(), nodes: Vec::new(), switch, runtime: Some(runtime), plan };
        for number in 1..=bed.plan.nodes {
            let node = bed.build_node(number as u8)?;
            bed.nodes.push(node);
        }
        Ok(bed)
    }

    fn build_node(&self, number: u8) -> Result<BedNode> {
        let name = format!("node-{number}");
        let namespace = Namespace::create(&self.plan.netns_dir, format!("{}-{name}", self.prefix))?;
        let ns = namespace.ns();
        quiet_ipv6(ns)?;
        link::sysctl(ns, "net.ipv4.ip_forward", "1")?;
        link::sysctl(ns, "net.ipv6.conf.all.forwarding", "1")?;
        let links = Links::open(ns)?;
        links.bridge("pods0")?;
        links.mtu("pods0", self.plan.mtu)?;
        for (network, prefix) in pod_networks(number) {
            links.address("pods0", gateway(network), prefix)?;
        }
        links.up("pods0")?;

        let port = format!("node{number}");
        let switch = Links::open(self.switch.ns())?;
        switch.veth(&port, ns, "wire0")?;
        switch.mtu(&port, self.plan.mtu)?;
        switch.attach(&port, "switch0")?;
        switch.up(&port)?;
        links.mtu("wire0", self.plan.mtu)?;
        let [v4, v6] = wire_addresses(number);
        links.address("wire0", v4, 16)?;
        links.address("wire0", v6, 64)?;
        links.up("wire0")?;
        wait_carrier(&links, "wire0")?;
        for other in (1..=self.plan.nodes as u8).filter(|&other| other != number) {
            for ((network, prefix), via) in pod_networks(other).into_iter().zip(wire_addresses(other)) {
                links.route(network, prefix, Via::Gateway(via))?;
            }
        }
        Ok(BedNode { name, number, namespace, next_pod: 2, next_port: 1 })
    }

    /// Adds a pod. It can be reached when this returns.
    pub fn pod(&mut self, spec: PodSpec) -> Result<Pod> {
        let families = spec.families.unwrap_or(self.plan.families);
        let count = self.nodes.len();
        let Some(node) = self.nodes.get_mut(spec.node) else {
            bail!("pod {}/{} is to be on node {} of {count}", spec.namespace, spec.name, spec.node);
        };
        let host = node.next_pod;
        ensure!(host < 250, "{} has no pod address left", node.name);
        node.next_pod += 1;
        let port = format!("pod{}", node.next_port);
        node.next_port += 1;
        let number = node.number;
        let v4 = families.v4.then(|| spec.v4.unwrap_or(Ipv4Addr::new(10, number, 0, host)));
        let v6 = families
            .v6
            .then(|| spec.v6.unwrap_or(Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, host.into())));

        let mut name = format!("{}-{}", self.prefix, spec.name);
        if self.plan.netns_dir.join(&name).exists() {
            name = format!("{}-{}-{}-{port}", self.prefix, spec.namespace, spec.name);
        }
        let namespace = Namespace::create(&self.plan.netns_dir, name)?;
        quiet_ipv6(namespace.ns())?;
        let links = Links::open(node.namespace.ns())?;
        let inside = Links::open(namespace.ns())?;
        links.veth(&port, namespace.ns(), "eth0")?;
        links.mtu(&port, self.plan.mtu)?;
        links.attach(&port, "pods0")?;
        links.up(&port)?;
        inside.mtu("eth0", self.plan.mtu)?;
        let networks = pod_networks(number);
        if let Some(v4) = v4 {
            inside.address("eth0", v4.into(), networks[0].1)?;
        }
        if let Some(v6) = v6 {
            inside.address("eth0", v6.into(), networks[1].1)?;
        }
        inside.up("eth0")?;
        wait_carrier(&inside, "eth0")?;
        if v4.is_some() {
            inside.route(Ipv4Addr::UNSPECIFIED.into(), 0, Via::Gateway(gateway(networks[0].0)))?;
        }
        if v6.is_some() {
            inside.route(Ipv6Addr::UNSPECIFIED.into(), 0, Via::Gateway(gateway(networks[1].0)))?;
        }
        let pod = Pod::from_inner(pod::Inner {
            uid: uid(),
            spec,
            v4,
            v6,
            namespace,
            port,
            node: node.namespace.ns().clone(),
            runtime: self.runtime().handle().clone(),
        });
        self.pods.push(pod.clone());
        Ok(pod)
    }

    /// Removes a pod: its cable, its processes, its namespace. Its address is free for [`PodSpec::address`].
    pub fn remove(&mut self, pod: &Pod) {
        pod.remove();
        self.pods.retain(|other| other.uid() != pod.uid());
    }

    /// The nodes, first `node-1`.
    pub fn nodes(&self) -> &[BedNode] {
        &self.nodes
    }

    /// The pods that stand.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// First part of all names of this bed.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The plan it was built by.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The namespace that joins the nodes; its port to node N is `nodeN`.
    pub fn switch(&self) -> &NetNs {
        self.switch.ns()
    }

    /// The runtime that applications run on.
    #[expect(clippy::expect_used, reason = "taken only by Drop")]
    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("a bed that stands has its runtime")
    }

    /// Leaves everything standing; [`Bed::remove_all`] with the plan's prefix takes it away later.
    pub fn keep(self) {
        self.switch.keep();
        self.nodes.iter().for_each(|node| node.namespace.keep());
        self.pods.iter().for_each(|pod| pod.inner().namespace.keep());
    }

    /// Removes what beds with this prefix left behind whose process is gone (killed, interrupted); returns the names.
    pub fn cleanup_leftovers(netns_dir: &Path, prefix: &str) -> io::Result<Vec<String>> {
        remove_named(netns_dir, prefix, |owner| !Path::new("/proc").join(owner.to_string()).exists())
    }

    /// Removes all beds with this prefix, except those of this process; returns the names.
    pub fn remove_all(netns_dir: &Path, prefix: &str) -> io::Result<Vec<String>> {
        remove_named(netns_dir, prefix, |owner| owner != process::id())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.pods.iter().for_each(Pod::remove);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A version 4 UUID from the kernel, or one that is at least unique in this process.
fn uid() -> String {
    static PODS: AtomicU32 = AtomicU32::new(0);
    fs::read_to_string("/proc/sys/kernel/random/uuid").map_or_else(
        |_| {
            format!(
                "00000000-0000-4000-8000-{:06x}{:06x}",
                process::id(),
                PODS.fetch_add(1, Ordering::Relaxed)
            )
        },
        |uuid| uuid.trim().into(),
    )
}

fn pod_networks(number: u8) -> [(IpAddr, u8); 2] {
    [
        (Ipv4Addr::new(10, number, 0, 0).into(), 24),
        (Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, 0).into(), 64),
    ]
}

fn wire_addresses(number: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(172, 31, 0, number).into(), Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, number.into()).into()]
}

/// First address of a pod network.
fn gateway(network: IpAddr) -> IpAddr {
    match network {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | 1).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | 1).into(),
    }
}

/// No duplicate address detection and no router advertisements: addresses are usable at once, and stay what we gave.
fn quiet_ipv6(ns: &NetNs) -> Result<()> {
    for key in ["accept_dad", "accept_ra", "router_solicitations"] {
        for scope in ["all", "default"] {
            link::sysctl(ns, &format!("net.ipv6.conf.{scope}.{key}"), "0")
                .context("the bed needs a kernel with IPv6")?;
        }
    }
    Ok(())
}

fn wait_carrier(links: &Links, name: &str) -> Result<()> {
    wait_for(&format!("interface {name} to carry packets"), Duration::from_secs(10), || {
        Ok(links.carries(name)?.then_some(()))
    })
}

/// Kills every process whose network namespace is one of these, except this one.
fn kill_inside(namespaces: &HashSet<NetNsId>) {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(file) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if pid != process::id() && namespaces.contains(&NetNsId { device: file.dev(), inode: file.ino() }) {
            // It may have ended meanwhile, which is what is wanted.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
}

fn remove_named(dir: &Path, prefix: &str, remove: impl Fn(u32) -> bool) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    let mut ids = HashSet::new();
    for name in link::netns_names(dir)? {
        if owner(&name, prefix).is_some_and(&remove) {
            if let Ok(ns) = NetNs::open(&dir.join(&name)) {
                ids.insert(ns.id());
            }
            removed.push(name);
        }
    }
    if !removed.is_empty() {
        kill_inside(&ids);
    }
    for name in &removed {
        link::delete_netns(dir, name)?;
    }
    Ok(removed)
}

/// The process that made the namespace `name`, where a bed with this prefix made it.
fn owner(name: &str, prefix: &str) -> Option<u32> {
    let rest = name.strip_prefix(prefix)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[digits..].starts_with(['-', '.']).then(|| rest[..digits].parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner("demo4711-client", "demo"), Some(4711));
        assert_eq!(owner("demo4711.1-client", "demo"), Some(4711));
        assert_eq!(owner("demo-client", "demo"), None);
        assert_eq!(owner("demos4711-client", "demo"), None);
        assert_eq!(owner("demo4711", "demo"), None);
    }

    #[test]
    fn gateways_are_the_first_address() {
        let [(v4, _), (v6, _)] = pod_networks(7);
        assert_eq!(gateway(v4).to_string(), "10.7.0.1");
        assert_eq!(gateway(v6).to_string(), "fd00:7::1");
    }
}
