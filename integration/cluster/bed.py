"""What scenarios are written with: commands, waiting, the mesh as its administrator has it, pods, and calls between them."""

import json
import os
import subprocess
import time

from places import BIN, NODES, STATE, UNDERLAY, kubectl

# Longer than anything here takes on a busy machine.
DEADLINE = 120
SYSTEM = "aquifer-system"
NODE = "app.kubernetes.io/name=aquifer-node"
NODE_PODS = ["-l", NODE]
POLICIES = "aquifer.dev/v1alpha1"


class Failed(Exception):
    pass


class Skipped(Exception):
    """What a scenario needs is not here."""


def check(condition, what):
    if not condition:
        raise Failed(what)


def command(*line, ok=True, stdin=None):
    """Runs a command and gives its output; with `ok` it must succeed."""
    done = subprocess.run([str(part) for part in line], input=stdin, capture_output=True, text=True, check=False, timeout=DEADLINE * 3)
    if ok and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, line))}: {done.stdout}{done.stderr}")
    return done


def k(*arguments, **options):
    return command(*kubectl(*arguments), **options).stdout


def wait(what, condition, deadline=DEADLINE):
    until = time.monotonic() + deadline
    last = None
    while True:
        try:
            found = condition()
            if found:
                return found
        except Failed as error:
            last = error
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {deadline} s ({last})")
        time.sleep(0.1)


class Mesh:
    """The program under test, and what scenarios ask of it."""

    def __init__(self, program):
        self.program = os.path.abspath(program)

    def aquifer(self, *arguments, ok=True):
        """The command line as an administrator has it."""
        config = [] if arguments[0] in ("install", "uninstall") else ["--kubeconfig", STATE / "pki/admin.conf"]
        return command("ip", "netns", "exec", UNDERLAY, self.program, *arguments, *config, ok=ok)

    def status(self):
        return json.loads(self.aquifer("status", "-o", "json").stdout)

    def finding(self, check, *arguments):
        """What `check` says is wrong under a name, or None."""
        said = self.aquifer("check", "-o", "json", *arguments, ok=False).stdout
        wrong = [finding for finding in json.loads(said)["findings"] if finding["level"] != "good"]
        return next((finding for finding in wrong if finding["check"] == check), None)

    def finds(self, check, *words, arguments=(), deadline=DEADLINE):
        """Waits until `check` finds a planted fault; what it says must have these words and a mend, which is given."""
        said = lambda: next((f for f in [self.finding(check, *arguments)] if f and all(word in f["found"] for word in words)), None)
        found = wait(f"check to find {check} {words}", said, deadline)
        check_mend = found["mend"]
        if not check_mend or not found["whose"]:
            raise Failed(f"{found} names no mend, or nobody whose it is")
        return check_mend

    def in_mesh(self, namespace):
        pods = [pod for pod in self.status()["pods"] if pod["pod"].startswith(f"{namespace}/")]
        return [pod["pod"].split("/")[1] for pod in pods if pod["ready"] and not pod["leaving"]]


def needs(*programs):
    """Skips the scenario where programs that it needs were not built."""
    lacking = [name for name in programs if not (BIN / name).exists()]
    if lacking:
        raise Skipped(f"there is no {' nor '.join(lacking)}: python3 integration/cluster build")


def mesh_is_gone():
    """Whether the mesh's namespace is gone, with all that was in it."""
    return command(*kubectl("get", "namespace", SYSTEM), ok=False).returncode != 0


def names(namespace, selector):
    return k("-n", namespace, "get", "pods", "-l", selector, "-o", "name").replace("pod/", "").split()


def field(namespace, pod, path):
    return k("-n", namespace, "get", "pod", pod, "-o", f"jsonpath={{{path}}}")


def place_of(pod, namespace="shop"):
    """The node that a pod is on."""
    place = field(namespace, pod, ".spec.nodeName")
    return next(node for node in NODES if node.name == place)


def kernel_keys():
    """Names of the mesh's keys in the kernel, which is one for all nodes here."""
    with open("/proc/keys") as keys:
        return [line.split("aquifer:", 1)[1].strip() for line in keys if "aquifer:" in line]


def proxies_on(node):
    """Names of a node's proxies, also of one that ends."""
    return k("-n", SYSTEM, "get", "pods", *NODE_PODS, "--field-selector", f"spec.nodeName={node.name}", "-o", "name").replace("pod/", "").split()


def keep_proxy_off(node):
    """A node is left without a proxy, until `let_proxy_back`."""
    others = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node.name]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [others]}}}
    k("-n", SYSTEM, "patch", "daemonset", "aquifer-node", "--type=merge", "-p", json.dumps({"spec": {"template": {"spec": {"affinity": affinity}}}}))
    wait("the proxy to be away", lambda: not proxies_on(node))


def let_proxy_back():
    k("-n", SYSTEM, "patch", "daemonset", "aquifer-node", "--type=json", "-p", '[{"op": "remove", "path": "/spec/template/spec/affinity"}]')
    wait("the proxy to be back", lambda: len(serving()) == len(NODES))


def next_try(node):
    """Between two tries of kubelet (10 to 15 s) no pod could hear of the proxy: waits until one is under way."""
    wait("kubelet's next try", lambda: command(*node.enter("pgrep", "-f", "/opt/cni/bin/aquifer-cni"), ok=False).returncode == 0)


def call(pod, target, namespace="shop"):
    """One call with a connection of its own; the name of the pod that answered, or None."""
    done = command(*kubectl("-n", namespace, "exec", pod, "--", "wget", "-q", "-O", "-", f"http://{target}/hostname"), ok=False)
    return done.stdout.strip() if done.returncode == 0 else None


def records(pod):
    """The flow records of a node's log that name a pod."""
    lines = []
    for node_pod in names(SYSTEM, NODE):
        lines += [line for line in k("-n", SYSTEM, "logs", node_pod).splitlines() if " flow: " in line and pod in line]
    return lines


def inside(pod, line, namespace="shop"):
    """What a command line of the node says inside a pod's network namespace."""
    return inside_of(place_of(pod, namespace), field(namespace, pod, ".metadata.uid"), line)


def inside_of(place, uid, line):
    """The same where the API server cannot be asked for the pod's node and uid."""
    enter = f'for p in /proc/[0-9]*; do grep -qs "pod{uid}" $p/cgroup && exec nsenter --net=$p/ns/net {line}; done'
    return command(*place.enter("bash", "-c", enter)).stdout


def rules(pod, namespace="shop"):
    """Whether the pod's network namespace has packet rules of ours, as the node's own `nft` sees it."""
    return "aquifer" in inside(pod, "nft list tables", namespace)


def apply(kind, name, spec, group="v1", namespace="shop"):
    thing = {"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}}, "spec": spec}
    k("apply", "-f", "-", stdin=json.dumps(thing))


def state_of_things():
    """What a reader of a failed run wants to know."""
    looks = [
        ["get", "pods", "-A", "-o", "wide"],
        ["get", "events", "-A", "--sort-by=.lastTimestamp", "-o", "custom-columns=AT:.lastTimestamp,OF:.involvedObject.name,WHY:.message"],
        ["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/part-of=aquifer", "--tail=40", "--prefix"],
    ]
    return "\n".join(f"--- kubectl {' '.join(look)}\n{k(*look, ok=False)}" for look in looks)


def alone(name, command, namespace="shop", node=None, account="default", restart="Never", **more):
    """A pod that runs one command, and then sleeps. `more` is the rest of its spec."""
    spec = {
        "terminationGracePeriodSeconds": 0, "restartPolicy": restart, "nodeName": node, "serviceAccountName": account,
        "containers": [{"name": "alone", "image": "localhost/busybox:1", "imagePullPolicy": "IfNotPresent",
                        "command": ["/bin/sh", "-c", f"{command}; exec /bin/sleep 1000000"]}],
    } | more
    apply("Pod", name, spec, namespace=namespace)


def runs(name, namespace="shop"):
    return field(namespace, name, ".status.phase") == "Running"


def plugins(node):
    """Types of the plug-ins that a node's container runtime calls for a pod."""
    text = command(*node.enter("cat", "/etc/cni/net.d/10-pods.conflist")).stdout
    return [plugin["type"] for plugin in json.loads(text)["plugins"]]


def serving():
    """Names of the node proxies that serve. The DaemonSet's own status counts a node as not updated for as long as the proxy before
    carries its last connections there."""
    pods = json.loads(k("-n", SYSTEM, "get", "pods", *NODE_PODS, "-o", "json"))["items"]
    ready = lambda pod: any(it["type"] == "Ready" and it["status"] == "True" for it in pod["status"].get("conditions", []))
    return {pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"] and ready(pod)}


class Calls:
    """Calls in a row from inside a pod, a new connection each, and one connection that stays."""

    # 20 ms between calls. What wget says of one that failed goes to a file.
    LOOP = ('while [ ! -e /stop ]; do if wget -q -O /dev/null http://{target}/hostname 2>>/calls.err; then echo ok; else echo failed; fi; '
            "sleep 0.02; done >/calls; echo ended >>/calls")

    def __init__(self, pod, target, namespace="shop"):
        self.pod, self.namespace = pod, namespace
        self.sh("busybox rm -f /stop /calls /calls.err")
        # Kept by the pod's own first process, not by this command.
        self.sh(f"({self.LOOP.format(target=target)}) </dev/null >/dev/null 2>&1 &")

    def sh(self, script):
        return k("-n", self.namespace, "exec", self.pod, "--", "sh", "-c", script)

    def hold(self, address):
        """A connection to a server's address that stays until it is let go."""
        keep = "while [ ! -e /let-go ]; do sleep 0.1; done"
        self.sh(f"busybox rm -f /ended /let-go; (({keep}) | (nc {address} 8080; echo >/ended)) </dev/null >/dev/null 2>&1 &")
        wait("a connection that stays", lambda: f"{address}:8080" in self.sh("busybox netstat -tn | busybox grep ESTABLISHED; echo"))

    def holds(self):
        return "ended" not in self.sh("busybox ls /")

    def count(self):
        lines = self.sh("cat /calls").split()
        return lines.count("ok"), lines.count("failed")

    def wait_for_more(self, more):
        ok = self.count()[0]
        wait(f"{more} more calls", lambda: self.count()[0] >= ok + more)

    def stop(self, bearable=0):
        """How many succeeded; no more than are bearable may have failed."""
        self.sh("echo >/stop")
        wait("the last call", lambda: "ended" in self.sh("cat /calls"))
        ok, failed = self.count()
        check(failed <= bearable, f"{failed} of {ok + failed} calls failed: {self.sh('cat /calls.err')[:500]}")
        return ok
