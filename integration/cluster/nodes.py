"""The nodes: each a set of namespaces in which a container runtime, a kubelet and a kube-proxy run."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

from certificates import PKI
from control import wait
from places import API, BIN, HERE, NODES, UNDERLAY, kubectl, quiet, run


def start(node, images=(), taints=""):
    """Starts a node, on its disk of before if it has one. It is a node when its kubelet says so, which registers a new one with taints."""
    node.dir.mkdir(parents=True, exist_ok=True)
    run("ip", "netns", "add", node.netns)
    run("ip", "-n", UNDERLAY, "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.netns)
    run("ip", "-n", UNDERLAY, "link", "set", node.link, "master", "br0", "up")
    for command in ("link set lo up", f"addr add {node.address}/24 dev eth0", "link set eth0 up", f"route add default via {API}"):
        run("ip", "-n", node.netns, *command.split())
    for other in NODES:
        if other is not node:
            run("ip", "-n", node.netns, "route", "add", other.pods, "via", other.address)
    run("ip", "-n", UNDERLAY, "route", "replace", node.pods, "via", node.address)
    environment = os.environ | {
        "NODE_NAME": node.name,
        "NODE_ADDRESS": node.address,
        "NODE_PODS": node.pods,
        "NODE_DIR": str(node.dir),
        "NODE_BIN": str(BIN),
        "NODE_PKI": str(PKI),
        "NODE_IMAGES": " ".join(map(str, images)),
        "NODE_CGROUPS": " ".join(cgroups(node)),
        "NODE_TAINTS": taints,
    }
    command = ["ip", "netns", "exec", node.netns, "unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup",
               "--fork", "--kill-child", "--mount-proc", "python3", str(HERE / "node_init.py")]
    # Into the node's own cgroups first, so that its cgroup namespace begins there.
    enter = "".join(f"echo $$ > {cgroup}/cgroup.procs; " for cgroup in cgroups(node))
    with open(node.dir / "node.log", "ab") as log:
        outer = subprocess.Popen(["bash", "-c", f'{enter} exec "$@"', "node", *command], env=environment,
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (node.dir / "outer.pid").write_text(str(outer.pid))


def assign(node):
    """Says in the Node whose pods' addresses are its own: what a cloud's controller, or the controller manager, says in other clusters."""
    patch = f'{{"spec":{{"podCIDR":"{node.pods}","podCIDRs":["{node.pods}"]}}}}'
    run(*kubectl("patch", "node", node.name, "-p", patch), stdout=subprocess.DEVNULL)


def renew(node):
    """In the place of a node that was killed comes a new machine: nothing of its disk is kept but the images."""
    for path in ("etc/cni/net.d", "etc/kubernetes", "opt/cni/bin", "var/lib/cni", "var/lib/kubelet"):
        shutil.rmtree(node.dir / path)


def cgroups(node):
    """A cgroup of the node in every hierarchy, below our own: nothing leaves our own accounting."""
    found = []
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = pathlib.Path("/sys/fs/cgroup/unified")
            if not mount.is_dir():
                mount = pathlib.Path("/sys/fs/cgroup")
                if not (mount / "cgroup.procs").exists():
                    continue
        elif controllers.startswith("name="):
            mount = pathlib.Path("/sys/fs/cgroup") / controllers[len("name="):]
        else:
            mount = pathlib.Path("/sys/fs/cgroup") / controllers.split(",")[0]
        if not mount.is_dir():
            continue
        parent = mount / path.lstrip("/")
        cgroup = parent / f"aqc-{node.name}"
        cgroup.mkdir(exist_ok=True)
        if controllers == "cpuset":
            for name in ("cpuset.cpus", "cpuset.mems"):
                (cgroup / name).write_text((parent / name).read_text())
        found.append(str(cgroup))
    return found


def kill(node):
    """As if its power went: every process of the node ends at once, and the kernel forgets it; its disk stays."""
    pid = node.pid()
    if pid is not None:
        outer = int((node.dir / "outer.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        wait(10, lambda: not os.path.exists(f"/proc/{outer}/task/{outer}/children") or zombie(outer))
    quiet("ip", "-n", UNDERLAY, "link", "del", node.link)
    quiet("ip", "netns", "del", node.netns)
    # Of those that are left kubelet waits 3 s for each at its next start, for containers that are no more.
    forget_cgroups(node)


def zombie(pid):
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    try:
        return "State:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def forget_cgroups(node):
    """Takes the cgroups of a dead node away."""
    for cgroup in reversed(cgroups(node)):
        for _ in range(20):
            quiet("find", cgroup, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";")
            if not os.path.isdir(cgroup):
                break
            time.sleep(0.1)


def load(image):
    """Gives an OCI archive to every node."""
    for node in NODES:
        run(*node.enter("ctr", "-n", "k8s.io", "images", "import", str(image)), stdout=subprocess.DEVNULL)
