"""Where everything is, and how commands are run."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Programs, kept from run to run; a change of their versions builds them anew. A variable that is set and empty names none.
BIN = pathlib.Path(os.environ.get("AQUIFER_CLUSTER_BIN") or ROOT / "target/cluster/bin")
# The cluster that runs: keys, logs, the nodes' disks. New at each `up`. Not below /run, where nodes have their own.
STATE = pathlib.Path(os.environ.get("AQUIFER_CLUSTER", "/var/lib/aquifer-cluster"))

# The namespace of the control plane, and the switch that joins the nodes.
UNDERLAY = "aqc-underlay"
API = "172.30.0.1"
SERVICES = "10.96.0.0/16"
KUBERNETES = "10.96.0.1"
DNS = "10.96.0.10"


class Node:
    """One node of the cluster: a set of namespaces with its own kubelet, container runtime and kube-proxy."""

    def __init__(self, number):
        self.name = f"n{number}"
        self.address = f"172.30.0.{10 + number}"
        self.pods = f"10.244.{number}.0/24"
        self.netns = f"aqc-{self.name}"
        self.link = f"aqc-v{number}"
        self.dir = STATE / self.name

    def pid(self):
        """The node's first process, if it runs: the only child of the one that made the namespaces."""
        try:
            outer = int((self.dir / "outer.pid").read_text())
            children = pathlib.Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            return int(children[0]) if children else None
        except (OSError, ValueError):
            return None

    def enter(self, *command):
        """The command line that runs a command inside the node."""
        pid = self.pid()
        if pid is None:
            fail(f"node {self.name} does not run")
        return ["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "-C", "--", *command]


NODES = [Node(1), Node(2)]


def node(name):
    for each in NODES:
        if each.name == name:
            return each
    fail(f"there is no node {name}: {', '.join(each.name for each in NODES)}")


def fail(why):
    sys.exit(f"cluster: {why}")


def run(*command, **options):
    """Runs a command that must succeed."""
    return subprocess.run([str(part) for part in command], check=True, **options)


def quiet(*command, **options):
    """Runs a command whose words do not count, and tells whether it succeeded."""
    result = subprocess.run(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, **options
    )
    return result.returncode == 0


def kubectl(*arguments):
    """The command line of kubectl as the cluster's administrator."""
    config = STATE / "pki/admin.conf"
    return ["ip", "netns", "exec", UNDERLAY, str(BIN / "kubectl"), "--kubeconfig", str(config), *map(str, arguments)]
