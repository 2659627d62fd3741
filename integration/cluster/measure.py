"""What the mesh costs users at each step of its life, beside what Istio's ambient mode costs on the same cluster: `… measure PROGRAM`.

One pod calls a Service every 20 ms, a new connection each time; another holds a connection and sends over it as often. What they saw
stands in their logs with the time, and each row looks at a window of them. Rows run one after another, on a cluster without a mesh.
"""

import functools
import re
import time
from datetime import datetime

import bed
from places import NODES
from bed import (
    POLICIES, SYSTEM, Mesh, check, command, field, k, keep_proxy_off, let_proxy_back, mesh_is_gone, names, next_try, records, rules,
    serving, wait,
)

SPACE = "measure"
EVERY = 20
AWAY = 60


def pod(*command, app):
    """What a pod of callers consists of."""
    container = {"name": app, "image": "localhost/busybox:1", "imagePullPolicy": "IfNotPresent", "command": ["/bin/caller", *map(str, command)]}
    return {"terminationGracePeriodSeconds": 10, "containers": [container]}


# As in the scenarios, in this namespace.
apply = functools.partial(bed.apply, namespace=SPACE)


def deployment(name, replicas, *command):
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}}, "spec": pod(*command, app=name)}}
    spec["template"]["spec"]["topologySpreadConstraints"] = [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": name}}}]
    apply("Deployment", name, spec, "apps/v1")


def rolled_out(name, kind="deployment", namespace=SPACE):
    k("-n", namespace, "rollout", "status", f"{kind}/{name}", "--timeout=180s")


def service(name):
    apply("Service", name, {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]})
    return k("-n", SPACE, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")


def caller(name, how, address, node=None):
    spec = pod(how, address, 80, EVERY, app=name)
    spec |= {"terminationGracePeriodSeconds": 0}
    if node:
        spec["nodeName"] = node
    apply("Pod", name, spec)


def seen(name, since=0.0, until=float("inf")):
    """What a caller saw: (time, what, detail), in a window of time in s; nothing while it waits to begin."""
    lines = [line.split(" ", 2) for line in k("-n", SPACE, "logs", name, ok=False).splitlines()]
    all_of_it = [(int(line[0]) / 1000, line[1], line[2] if len(line) > 2 else "") for line in lines if len(line) > 1]
    return [line for line in all_of_it if since <= line[0] <= until]


class Window:
    """From now on."""

    def __init__(self):
        self.since = time.time()
        self.until = float("inf")

    def close(self, after=0.0):
        time.sleep(after)
        self.until = time.time()
        return self

    def calls(self, name="steady"):
        return seen(name, self.since, self.until)

    def failed(self, name="steady"):
        calls = self.calls(name)
        wrong = [(at - self.since, detail) for at, what, detail in calls if what == "failed"]
        if wrong:
            print(f"  failed, with the time in s: {wrong[:5]}", flush=True)
        return len(wrong), len(calls)

    def gap(self, name="steady"):
        """Longest time without a good call, in ms."""
        good = [self.since] + [at for at, what, _ in self.calls(name) if what == "ok"]
        return max((b - a for a, b in zip(good, good[1:])), default=float("inf")) * 1000

    def broken(self, name="holder"):
        return sum(what == "broken" for _, what, _ in seen(name, self.since, self.until))

    def p99(self, name="steady"):
        took = sorted(int(detail) / 1000 for _, what, detail in self.calls(name) if what == "ok")
        return took[int(len(took) * 0.99)] if took else float("inf")

    def first(self, what, name):
        """ms until a caller first saw it, or None."""
        return next(((at - self.since) * 1000 for at, it, _ in seen(name, self.since) if it == what), None)


def resident():
    """Of all the mesh's processes on the nodes, in MB."""
    look = "for p in /proc/[0-9]*; do case $(readlink $p/exe) in /aquifer*) grep VmRSS $p/status;; esac; done"
    texts = [command(*node.enter("bash", "-c", look), ok=False).stdout for node in NODES]
    return sum(int(number) for text in texts for number in re.findall(r"VmRSS:\s+(\d+) kB", text)) / 1000


def flow_time(line):
    stamp = re.search(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line).group(0)
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


class Table:
    def __init__(self):
        self.rows = []

    def add(self, what, istio, goal, value, met):
        self.rows.append((what, istio, goal, value, "met" if met else "**not met**"))
        print(f"  {what}: {value} (goal {goal}, Istio {istio}){'' if met else '  NOT MET'}", flush=True)

    def markdown(self):
        lines = ["| row | Istio ambient | goal | Aquifer | |", "|---|---|---|---|---|"]
        return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in self.rows])


def before_the_mesh():
    k("create", "namespace", SPACE)
    for name, drain in (("quick", 0), ("gentle", 3000)):
        deployment(name, 4, "serve", 8080, drain)
    addresses = {name: service(name) for name in ("quick", "gentle")}
    for name in addresses:
        rolled_out(name)
    caller("steady", "call", addresses["quick"], "n1")
    caller("smooth", "call", addresses["gentle"], "n1")
    caller("holder", "hold", addresses["gentle"], "n1")
    wait("callers that call", lambda: all(len(seen(name)) > 0 for name in ("steady", "smooth", "holder")))
    window = Window()
    k("-n", SPACE, "rollout", "restart", "deployment/gentle")
    rolled_out("gentle")
    window.close(max(0.0, 15 - (time.time() - window.since)))
    bare = {"answer": sorted(first_answer(addresses["quick"], f"bare-{n}") for n in range(3))[1], "p99": window.p99("smooth")}
    wait("the holder to hold again", lambda: seen("holder")[-1][1] == "open")
    return addresses, bare


def install(table, mesh):
    text = mesh.aquifer("install").stdout
    window = Window()
    k("apply", "-f", "-", stdin=text)
    rolled_out("aquifer-controller", namespace=SYSTEM)
    rolled_out("aquifer-node", "daemonset", SYSTEM)
    took = time.time() - window.since
    table.add("install: apply to all Ready", "15.6 s", "≤ 6 s", f"{took:.1f} s", took <= 6)
    time.sleep(10)
    used = resident()
    table.add("resident memory of the whole mesh, two nodes, idle", "314 MB", "≤ 80 MB", f"{used:.0f} MB", used <= 80)


def opt_in(table, mesh):
    window = Window()
    k("label", "namespace", SPACE, "aquifer.dev/mesh=ambient")
    wait("all pods in the mesh", lambda: len(mesh.in_mesh(SPACE)) >= 11)
    window.close(30 - (time.time() - window.since))
    failed, calls = window.failed()
    tunnel = min(flow_time(line) for line in records("steady") if "by tunnel" in line)
    took = (tunnel - window.since) * 1000
    table.add("label to the first call in a tunnel", "371 ms", "≤ 300 ms", f"{took:.0f} ms", took <= 300)
    broken = window.broken()
    table.add("connections that stood before the label, broken", "all", "none", f"{broken} of 1", broken == 0)
    table.add("failed calls at opt-in", "0–1 of 1,500", "0", f"{failed} of {calls}", failed == 0)


def first_answer(address, name):
    """ms from the pod's apply to its first good answer."""
    window = Window()
    caller(name, "call", address)
    wait("a good answer", lambda: window.first("ok", name) is not None)
    took = window.first("ok", name)
    k("-n", SPACE, "delete", "pod", name, "--now")
    return took


def beginnings(table, addresses, bare):
    took = sorted(first_answer(addresses["quick"], f"new-{n}") for n in range(3))[1]
    table.add("client pod applied to its first good answer", "808 ms (without a mesh 563)", "≤ 650 ms", f"{took:.0f} ms (without a mesh {bare['answer']:.0f})", took <= 650)


def rollouts(table, bare):
    for name, watcher, what in (("quick", "steady", "at once"), ("gentle", "smooth", "after draining")):
        window = Window()
        k("-n", SPACE, "rollout", "restart", f"deployment/{name}")
        rolled_out(name)
        window.close(max(0.0, 15 - (time.time() - window.since)))
        failed, calls = window.failed(watcher)
        if what == "at once":
            table.add("rollout of 4 servers that exit at once, failed", "4–15 of 750", "0", f"{failed} of {calls}", failed == 0)
        else:
            p99 = window.p99(watcher)
            table.add("rollout of servers that drain, p99 of a call", "7.4 ms (without a mesh 3.1)", "≤ 4 ms", f"{p99:.1f} ms (without a mesh {bare['p99']:.1f}), {failed} of {calls} failed", p99 <= 4 and not failed)


def policies(table):
    deny = {"selector": {"matchLabels": {"app": "gentle"}}, "action": "DENY", "rules": [{}]}
    window = Window()
    apply("AuthorizationPolicy", "deny", deny, POLICIES)
    wait("a refusal", lambda: window.first("failed", "smooth") is not None and window.first("broken", "holder") is not None)
    refused, cut = window.first("failed", "smooth"), window.first("broken", "holder")
    k("-n", SPACE, "delete", "authorizationpolicies.aquifer.dev", "deny")
    table.add("DENY applied: new call refused", "181 ms", "≤ 150 ms", f"{refused:.0f} ms", refused <= 150)
    table.add("DENY applied: live connection cut", "never with a selector", "≤ 300 ms", f"{cut:.0f} ms", cut <= 300)
    address = k("-n", SPACE, "get", "service", "gentle", "-o", "jsonpath={.spec.clusterIP}")
    for name, how in (("plain-call", "call"), ("plain-hold", "hold")):
        spec = pod(how, address, 80, EVERY, app=name) | {"terminationGracePeriodSeconds": 0}
        apply("Pod", name, spec, namespace="default")
    plain = lambda name: k("logs", name).splitlines()
    wait("plain clients", lambda: plain("plain-call") and any(" open" in line for line in plain("plain-hold")))
    window = Window()
    apply("PeerAuthentication", "strict", {"mtls": {"mode": "STRICT"}}, POLICIES)
    after = lambda name, what: [int(line.split()[0]) - window.since * 1000 for line in plain(name) if f" {what}" in line and int(line.split()[0]) >= window.since * 1000]
    wait("STRICT", lambda: after("plain-call", "failed") and after("plain-hold", "broken"))
    refused, cut = after("plain-call", "failed")[0], after("plain-hold", "broken")[0]
    k("-n", SPACE, "delete", "peerauthentications.aquifer.dev", "strict")
    k("delete", "pod", "plain-call", "plain-hold", "--now")
    table.add("STRICT applied: plain client refused", "165 ms", "≤ 150 ms", f"{refused:.0f} ms", refused <= 150)
    table.add("STRICT applied: its live connection cut", "never", "≤ 300 ms", f"{cut:.0f} ms", cut <= 300)


def proxies(table):
    wait("the holder to hold again", lambda: seen("holder")[-1][1] == "open")
    # The whole rolling update.
    window = Window()
    before = serving()
    k("-n", SYSTEM, "rollout", "restart", "daemonset/aquifer-node")
    wait("new proxies", lambda: len(serving() - before) == len(NODES))
    window.close(15)
    (failed, calls), cut = window.failed(), window.broken()
    table.add("rolling update of the node proxies: failed; live connections cut", "0; all at 26 s", "0; none", f"{failed} of {calls}; {cut} of 1", failed + cut == 0)
    # Killed, twice.
    for nth in ("first", "second"):
        window = Window()
        command(*NODES[0].enter("pkill", "-9", "-f", "aquifer node-worker"))
        window.close(15)
        (failed, calls), gap = window.failed(), window.gap()
        istio = "11–21 failed, 0.4 s" if nth == "first" else "611 failed, 12 s"
        cut = sum(what == "failed" and "refused" in why for _, what, why in window.calls())
        table.add(f"node proxy killed (-9), {nth} time", istio, "0 refused, ≤ 100 ms", f"{failed} of {calls} failed ({cut} refused), {gap:.0f} ms", cut == 0 and gap <= 100)
    # Its pod deleted.
    window = Window()
    near = [name for name in serving() if field(SYSTEM, name, ".spec.nodeName") == NODES[0].name]
    k("-n", SYSTEM, "delete", "pod", *near, "--wait=false")
    window.close(45)
    (failed, calls), gap, cut = window.failed(), window.gap(), window.broken()
    table.add("node proxy pod deleted: failed; longest gap; live connections", "30 of 2,250; 628 ms; cut after 25 s", "0; ≤ 50 ms; go on",
              f"{failed} of {calls}; {gap:.0f} ms; {'cut' if cut else 'went on'}", failed == 0 and gap <= 50 and not cut)
    wait("both proxies", lambda: len(serving()) == len(NODES))


def absences(table, addresses):
    def away(what, istio, stop, start, roll=True):
        window = Window()
        stop()
        time.sleep(5)
        client = Window()
        caller("late", "call", addresses["gentle"])
        if roll:
            k("-n", SPACE, "rollout", "restart", "deployment/quick")
        time.sleep(AWAY - 5)
        late = client.first("ok", "late")
        start()
        window.close(10)
        failed, calls = window.failed()
        works = "works" if late is not None else "waits"
        table.add(f"{what} down {AWAY} s, servers rolled out meanwhile: failed steady calls; a new client pod", istio, "0; works", f"{failed} of {calls}; {works}", failed == 0 and late is not None)
        wait("the late client to call", lambda: client.first("ok", "late") is not None)
        k("-n", SPACE, "delete", "pod", "late", "--now")

    def scale(replicas):
        k("-n", SYSTEM, "scale", "deployment/aquifer-controller", f"--replicas={replicas}")
        if replicas:
            rolled_out("aquifer-controller", namespace=SYSTEM)
        else:
            wait("the controller to end", lambda: not names(SYSTEM, "app.kubernetes.io/name=aquifer-controller"))
    away("controller", "667 of 900; hangs until 4.6 s after it is back", lambda: scale(0), lambda: scale(2))
    rolled_out("quick")
    from control import start_api_server, stop
    window = Window()
    stop("kube-apiserver")
    time.sleep(AWAY)
    start_api_server()
    window.close(10)
    failed, calls = window.failed()
    table.add(f"API server down {AWAY} s: failed steady calls", "0", "0", f"{failed} of {calls}", failed == 0)


def a_node_without_proxy(table, addresses, name, when, tried):
    """A pod of the mesh begins while its node has no proxy: when does it run after the proxy is back, in kubelet's pause after its first try or
    while the next is under way? The name is its own, so that events of another pod are none of its."""
    keep_proxy_off(NODES[1])
    caller(name, "call", addresses["gentle"], "n2")
    why = lambda: k("-n", SPACE, "get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "jsonpath={.items[*].message}")
    wait("an event that says why", lambda: "no Aquifer node proxy runs" in why())
    if tried:
        next_try(NODES[1])
    check(field(SPACE, name, ".status.phase") == "Pending", "a pod of the mesh runs without a proxy")
    let_proxy_back()
    window = Window()
    wait("the pod to run", lambda: field(SPACE, name, ".status.phase") == "Running", 90)
    took = time.time() - window.since
    table.add(f"pod started while its node has no proxy: runs after the proxy is back, {when}", "up to 54 s", "≤ 5 s, with an event", f"{took:.1f} s, with an event", took <= 5)
    k("-n", SPACE, "delete", "pod", name, "--now")


def opt_out(table, mesh):
    window = Window()
    k("label", "namespace", SPACE, "aquifer.dev/mesh-")
    wait("all pods out of the mesh", lambda: not mesh.in_mesh(SPACE))
    window.close(max(0.0, 30 - (time.time() - window.since)))
    failed, calls = window.failed()
    table.add("failed calls at opt-out", "0–4 of 1,500", "0", f"{failed} of {calls}", failed == 0)


def uninstall(table, mesh):
    k("label", "namespace", SPACE, "aquifer.dev/mesh=ambient")
    wait("all pods in the mesh", lambda: len(mesh.in_mesh(SPACE)) >= 11)
    window = Window()
    k("delete", "--wait=false", "-f", "-", stdin=mesh.aquifer("uninstall").stdout)
    wait("the mesh to be gone", mesh_is_gone)
    window.close(10)
    failed, calls = window.failed()
    left = sum(rules(name, SPACE) for name in names(SPACE, "app"))
    table.add("mesh uninstalled with pods enrolled: failed; rule tables left", "all, for ever; 3 in each pod", "0; none", f"{failed} of {calls}; {left}", failed + left == 0)


def measure(program):
    """Prints the table."""
    mesh, table = Mesh(program), Table()
    addresses, bare = before_the_mesh()
    for row in (lambda: install(table, mesh), lambda: opt_in(table, mesh), lambda: beginnings(table, addresses, bare), lambda: rollouts(table, bare),
                lambda: policies(table),
                lambda: a_node_without_proxy(table, addresses, "waiting-pause", "in kubelet's pause after its first attempt", False),
                lambda: a_node_without_proxy(table, addresses, "waiting-later", "later", True), lambda: proxies(table), lambda: absences(table, addresses),
                lambda: opt_out(table, mesh), lambda: uninstall(table, mesh)):
        row()
    print(table.markdown())
