"""A real Kubernetes cluster of two nodes on one machine, for tests: `python3 integration/cluster COMMAND`.

    build             the programs, once: about eight minutes on two cores
    up [IMAGE.tar...]  starts a cluster with these images on its nodes, and waits until it serves (15 s)
    down              ends it, and leaves nothing but the programs
    missing           what keeps a cluster from running here; nothing where it can
    kubectl ARG...    as the cluster's administrator
    exec NODE ARG...  a command inside a node (n1, n2)
    load IMAGE.tar    gives an image to the nodes
    kill NODE | start NODE       a node loses its power; it starts on the disk that it had
    partition NODE | heal NODE   its cable is drawn, and put in again
    api stop | api start         the API server
    test AQUIFER [SCENARIO...]   the scenarios, with this program, whose image the nodes have
    measure AQUIFER   what the mesh costs at each step, as a table: some six minutes on a cluster without a mesh

No virtual machine, no container engine and no registry is needed. A node is a set of namespaces (network, mounts, processes, names,
IPC, cgroups) in which its own containerd, kubelet and kube-proxy run; etcd, the API server, controller manager and scheduler are beside
them. Admission, RBAC, probes, exec, port-forward, DaemonSets with hostPID, CNI plug-ins, Services, DNS and tokens are the real ones.
"""

import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True

import build
import certificates
import control
import measure
import nodes
import scenarios
from places import BIN, HERE, NODES, ROOT, STATE, UNDERLAY, fail, kubectl, node, quiet, run


def up(*images):
    lacking = build.missing()
    if lacking:
        fail(f"no cluster can run here without {'; '.join(lacking)}")
    if quiet("ip", "netns", "pids", UNDERLAY):
        fail(f"a cluster runs already (network namespace {UNDERLAY}): python3 integration/cluster down")
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    certificates.make()
    control.network()
    control.start()
    own = base_images()
    for each in NODES:
        nodes.start(each, own + [os.path.abspath(image) for image in images])
    ready = lambda: subprocess.run(kubectl("get", "nodes", "--no-headers"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    if not control.wait(120, lambda: ready().count(" Ready") == len(NODES)):
        fail(f"the nodes are not ready: see {STATE}/n1/node.log and {STATE}/n1/run/kubelet.log\n{ready()}")
    for each in NODES:
        nodes.assign(each)
    run(*kubectl("apply", "-f", HERE / "dns.yaml"), stdout=subprocess.DEVNULL)
    run(*kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s"), stdout=subprocess.DEVNULL)
    print(f"cluster: up, kubeconfig {STATE}/pki/admin.conf inside network namespace {UNDERLAY}")


def base_images():
    """The images that every cluster needs: what holds a pod's namespaces, DNS, and a shell for pods of tests."""
    folder = STATE / "images"
    folder.mkdir()
    run("gcc", "-O1", "-static", "-s", "-o", folder / "pause", HERE / "images/pause.c")
    run("gcc", "-O1", "-static", "-s", "-pthread", "-o", folder / "caller", HERE / "images/caller.c")
    files = {
        "pause": ("/pause", [f"{folder}/pause=/pause"]),
        "dns": ("/coredns", [f"{BIN}/coredns=/coredns"]),
        "busybox": ("/bin/sh", [f"/bin/busybox=/bin/{name}" for name in ("busybox", "sh", "sleep", "wget", "nc", "cat", "httpd", "ip", "nslookup")] + [f"{folder}/caller=/bin/caller"]),
    }
    for name, (command, content) in files.items():
        run("python3", ROOT / "deploy/image.py", folder / f"{name}.tar", f"localhost/{name}:1", command, *content, stdout=subprocess.DEVNULL)
    return [folder / f"{name}.tar" for name in files]


def down():
    for each in NODES:
        nodes.kill(each)
    control.stop()
    quiet("ip", "netns", "del", UNDERLAY)
    shutil.rmtree(STATE, ignore_errors=True)


def api(what):
    control.stop("kube-apiserver") if what == "stop" else control.start_api_server()


def replace(command):
    os.execvp(command[0], command)


COMMANDS = {
    "build": build.build,
    "up": up,
    "down": down,
    "missing": lambda: print("\n".join(build.missing())),
    "kubectl": lambda *arguments: replace(kubectl(*arguments)),
    "exec": lambda name, *command: replace(node(name).enter(*command)),
    "load": nodes.load,
    "kill": lambda name: nodes.kill(node(name)),
    "start": lambda name: nodes.start(node(name)),
    "partition": lambda name: run("ip", "-n", UNDERLAY, "link", "set", node(name).link, "down"),
    "heal": lambda name: run("ip", "-n", UNDERLAY, "link", "set", node(name).link, "up"),
    "api": api,
    "measure": measure.measure,
    "test": lambda *arguments: sys.exit(0 if scenarios.test(*arguments) else 1),
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
