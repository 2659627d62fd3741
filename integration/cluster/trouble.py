"""Scenarios of parts of the cluster or the mesh that are away, killed or replaced while applications call each other."""

import base64
import json
import tempfile
import time
from datetime import datetime

import control
import nodes
from bed import (
    DEADLINE, NODE, NODE_PODS, POLICIES, SYSTEM, Calls, alone, apply, call, check, command, field, inside_of, k, kernel_keys, names, place_of, proxies_on, records,
    rules, runs, serving, wait,
)
from places import NODES, UNDERLAY

# How long something is away, in s. Not a wait: it is to be missed.
AWAY = 15



def controller_away(mesh):
    """Without a controller what runs goes on, and what is wrong is said. The nodes read the API server themselves: servers are rolled out
    without a failed call, and a pod begins in the mesh, unless its identity is new to its node: then it waits. With a controller again all
    is well."""
    client, servers = names("shop", "app=client")[0], set(names("shop", "app=web"))
    node = place_of(client)
    calls = Calls(client, "web")
    k("-n", SYSTEM, "scale", "deployment/aquifer-controller", "--replicas=0")
    wait("the controller to end", lambda: not names(SYSTEM, "app.kubernetes.io/name=aquifer-controller"))
    check(mesh.aquifer("check", ok=False).returncode == 1, "check is content without a controller")

    k("-n", "shop", "rollout", "restart", "deployment/web")
    k("create", "serviceaccount", "new", "-n", "shop")
    alone("late", "wget -q -O - http://web/hostname", node=node.name, account="client")
    alone("unknown", "true", node=node.name, account="new")
    wait("a pod that begins without a controller to call", lambda: k("-n", "shop", "logs", "late").strip())
    own = field("shop", "late", ".status.podIP")
    wait("a record of its call in the mesh", lambda: records(f"{own}:"))
    events = lambda: k("-n", "shop", "get", "events", "--field-selector", "involvedObject.name=unknown", "-o", "jsonpath={.items[*].message}")
    wait("an event that says why a pod with a new identity waits", lambda: "certificate" in events())
    check(not runs("unknown"), "a pod runs without a certificate")
    wait("the old servers to be gone", lambda: not servers & set(names("shop", "app=web")))
    calls.wait_for_more(20)
    print(f"  {calls.stop()} calls without a controller, none failed")

    k("-n", SYSTEM, "scale", "deployment/aquifer-controller", "--replicas=2")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")
    wait("the pod that waited to run", lambda: runs("unknown"))
    for pod in ("late", "unknown"):
        k("-n", "shop", "delete", "pod", pod, "--now")
    k("-n", "shop", "delete", "serviceaccount", "new")


def worker_killed(mesh):
    """A node proxy that is killed twice is back at once, in the same pod: no call is refused, and the pods stay in the mesh."""
    client = names("shop", "app=client")[0]
    node = place_of(client)
    restarts = lambda: k("-n", SYSTEM, "get", "pods", *NODE_PODS, "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")
    before = restarts()
    calls = Calls(client, "web")
    calls.wait_for_more(5)
    for _ in range(2):
        command(*node.enter("pkill", "-9", "-f", "aquifer node-worker"))
        calls.wait_for_more(20)
    # What was carried at that moment is reset: a call that was under way may be.
    calls.stop(bearable=2)
    check(restarts() == before, f"node pods were restarted: {before}, {restarts()}")
    wait("all pods to be in the mesh", lambda: len(mesh.in_mesh("shop")) == 3)


def node_update(mesh):
    """A rolling update of the node proxies under calls: none fails, and old proxies end once they carry nothing, which nobody has to await."""
    client = names("shop", "app=client")[0]
    before = set(names(SYSTEM, NODE))
    calls = Calls(client, "web")
    calls.wait_for_more(20)
    calls.hold(field("shop", names("shop", "app=web")[0], ".status.podIP"))
    k("-n", SYSTEM, "rollout", "restart", "daemonset/aquifer-node")
    mesh.aquifer("upgrade", "--wait", f"{DEADLINE}s")
    check(len(serving() - before) == len(NODES), "`upgrade --wait` did not wait for new proxies")
    check(calls.holds() and before & set(names(SYSTEM, NODE)), "a connection was cut by the update, or carried by nobody")
    calls.wait_for_more(20)
    calls.sh("echo >/let-go")
    print(f"  {calls.stop()} calls while the node proxies were updated, none failed")
    wait("the old proxies to end", lambda: not before & set(names(SYSTEM, NODE)))
    check(all(rules(pod) for pod in names("shop", "app")), "a pod is not captured any more")
    wait("all pods to be in the mesh", lambda: len(mesh.in_mesh("shop")) == 3)


def node_deleted(mesh):
    """The pod of a node proxy is deleted under calls: the next takes over from it, and none fails."""
    client = names("shop", "app=client")[0]
    before = proxies_on(place_of(client))
    calls = Calls(client, "web")
    calls.wait_for_more(20)
    k("-n", SYSTEM, "delete", "pod", *before, "--wait=false")
    wait("the old proxy to be gone", lambda: not set(before) & set(names(SYSTEM, NODE)))
    calls.wait_for_more(20)
    print(f"  {calls.stop()} calls while a node proxy's pod was deleted, none failed")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")


def api_server_away(mesh):
    """While the API server is away no call fails; what is told it afterwards holds as before."""
    client = names("shop", "app=client")[0]
    calls = Calls(client, "web")
    calls.wait_for_more(5)
    control.stop("kube-apiserver")
    time.sleep(AWAY)
    control.start_api_server()
    calls.wait_for_more(20)
    print(f"  {calls.stop()} calls while the API server was away, none failed")
    apply("AuthorizationPolicy", "deny", {"action": "DENY", "rules": [{}]}, group=POLICIES)
    wait("a policy to be enforced", lambda: not call(client, "web"))
    k("-n", "shop", "delete", f"authorizationpolicies.{POLICIES.split('/')[0]}", "deny")
    wait("a call without it", lambda: call(client, "web"))
    alone("after", "true")
    wait("a pod that begins then to be in the mesh", lambda: "after" in mesh.in_mesh("shop"))
    k("-n", "shop", "delete", "pod", "after", "--now")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")


def starts_alone(mesh):
    """Neither controller nor API server is there, and both processes of a node's proxy are killed: kubelet starts it again, and it serves the
    pods that it served before, from what its node kept. A pod that is not in what was kept stays captured. With both back a policy counts as
    ever."""
    client = names("shop", "app=client")[0]
    node = place_of(client)
    servers = {place_of(server): field("shop", server, ".status.podIP") for server in names("shop", "app=web")}
    targets = {
        "on one node": (servers[node], 8080),
        "to the other node": (next(address for place, address in servers.items() if place is not node), 8080),
        "by the Service": (k("-n", "shop", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"), 80),
    }
    callers = [f"caller call {address} {port} 20" for address, port in targets.values()]
    kept = lambda what: f"/run/aquifer/{node.name}.{what}"
    written = lambda what: float(command(*node.enter("stat", "-c", "%.Y", kept(what))).stdout)
    # What is kept first is of a mesh in which the servers are ready, whatever nodes went through before.
    k("-n", "shop", "wait", "--for=condition=Ready", "pod", "-l", "app=web", f"--timeout={DEADLINE}s")
    wait("a call by the Service", lambda: call(client, "web"))
    began = time.time()
    alone("early", "true", node=node.name)
    wait("a pod to join", lambda: "early" in mesh.in_mesh("shop"))
    wait("the mesh to be kept", lambda: written("moment") > began)
    command(*node.enter("cp", kept("moment"), "/run/earlier"))
    alone("late", "true", node=node.name)
    wait("a pod to join", lambda: "late" in mesh.in_mesh("shop"))
    late = field("shop", "late", ".metadata.uid")
    captured = lambda: "aquifer" in inside_of(node, late, "nft list tables")
    began = time.time()
    k("-n", SYSTEM, "scale", "deployment/aquifer-controller", "--replicas=0")
    wait("the controller to end", lambda: not names(SYSTEM, "app.kubernetes.io/name=aquifer-controller"))
    # With the controllers their pods went: the mesh changed after that.
    wait("the mesh of now to be kept", lambda: written("moment") > began)
    wait("certificates to be kept", lambda: written("certificates"))
    check(command(*node.enter("grep", "-c", "PRIVATE", kept("moment"), kept("certificates")), ok=False).returncode == 1, "a private key is in a file")
    check(any(f"/{node.name}:" in key for key in kernel_keys()), f"the kernel has no key for what is sealed: {kernel_keys()}")
    for index, caller in enumerate(callers):
        k("-n", "shop", "exec", client, "--", "sh", "-c", f"({caller} >/caller-{index}) </dev/null >/dev/null 2>&1 &")

    def good(index, since=0.0):
        """Times of calls that succeeded. What a pod has written, by the node: the API server is away."""
        line = f'cat /proc/$(pgrep -o -f "{callers[index]}$")/root/caller-{index}'
        lines = [line.split() for line in command(*node.enter("bash", "-c", line)).stdout.splitlines()]
        return [int(line[0]) / 1000 for line in lines if line[1:2] == ["ok"] and int(line[0]) / 1000 > since]

    def page(port, path):
        """A page of the node's proxy, by the node."""
        ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}{path}', timeout=5).read().decode())"
        return command(*node.enter("bash", "-c", f'nsenter -n -t $(pgrep -o -f "aquifer node-worker") python3 -c "{ask}"')).stdout

    for index, what in enumerate(targets):
        wait(f"calls {what}", lambda: len(good(index)) > 10)
    control.stop("kube-apiserver")
    try:
        # As if it was killed before it wrote of the last pod.
        command(*node.enter("mv", "/run/earlier", kept("moment")))
        check(captured(), "a pod of the mesh is not captured")
        killed = time.time()
        command(*node.enter("pkill", "-9", "-f", "aquifer node"))
        for index, what in enumerate(targets):
            wait(f"calls {what} without anybody", lambda: len(good(index, killed + 0.2)) > 50)
        said, metrics = page(15021, "/readyz"), page(15020, "/metrics")
        check("from the cache of 20" in said, f"its page of readiness says {said}")
        check("aquifer_source_cache_timestamp_seconds 1" in metrics, "its metrics do not tell that it serves from its cache")
        check(captured(), "a pod that is not in the cache was set free")
    finally:
        control.start_api_server()
    dark = [min(good(index, killed + 0.2)) - killed for index, _ in enumerate(targets)]
    wait("its log", lambda: "worker starts" in k("-n", SYSTEM, "logs", proxies_on(node)[0]))
    started = k("-n", SYSTEM, "logs", proxies_on(node)[0], "--timestamps").split(" ", 1)[0]
    started = datetime.fromisoformat(started[:26].rstrip("Z") + "+00:00").timestamp()
    took = max(dark) - (started - killed)
    print(f"  {', '.join(f'{gap:.1f} s dark {what}' for gap, what in zip(dark, targets))}; {took:.1f} s of it after its container had started")
    check(took < 5, "it did not serve soon after it started")

    k("-n", SYSTEM, "scale", "deployment/aquifer-controller", "--replicas=2")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")
    wait("what is told to be served again", lambda: "cache" not in page(15021, "/readyz"))
    check(mesh.status()["cached"] == {}, "status says that a node serves from its cache")
    apply("AuthorizationPolicy", "deny", {"action": "DENY", "rules": [{}]}, group=POLICIES)
    wait("a policy to be enforced", lambda: not call(client, "web"))
    k("-n", "shop", "delete", f"authorizationpolicies.{POLICIES.split('/')[0]}", "deny")
    wait("a call without it", lambda: call(client, "web"))
    command(*node.enter("pkill", "-f", "caller call"))
    wait("all pods to be in the mesh", lambda: len(mesh.in_mesh("shop")) == 5)
    k("-n", "shop", "delete", "pod", "early", "late", "--now")


def partition(mesh):
    """A node is cut off: calls on one node go on, calls to it fail in bounded time, and succeed soon after it is back."""
    client = names("shop", "app=client")[0]
    here = place_of(client)
    servers = {place_of(server): field("shop", server, ".status.podIP") for server in names("shop", "app=web")}
    there = next(node for node in NODES if node is not here)
    check(call(client, f"{servers[there]}:8080"), "no call to the other node")
    calls = Calls(client, f"{servers[here]}:8080")
    calls.wait_for_more(5)
    link = lambda state: command("ip", "-n", UNDERLAY, "link", "set", there.link, state)
    link("down")
    try:
        began = time.monotonic()
        check(not call(client, f"{servers[there]}:8080"), "a call reached a node that is cut off")
        failed = time.monotonic() - began
        check(failed < 30, f"a call to a node that is cut off failed after {failed:.0f} s only")
    finally:
        link("up")
    began = time.monotonic()
    wait("a call to the node that is back", lambda: call(client, f"{servers[there]}:8080"))
    print(f"  a call to the node failed after {failed:.1f} s, and succeeded {time.monotonic() - began:.1f} s after it was back")
    calls.wait_for_more(20)
    print(f"  {calls.stop()} calls on one node meanwhile, none failed")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")


def node_rebooted(mesh):
    """The power of a node goes, with a proxy, DNS and a pod of the mesh on it: after its start the pod's first call is in the mesh."""
    dns = names("kube-system", "k8s-app=kube-dns")[0]
    node = place_of(dns, "kube-system")
    server = next(pod for pod in names("shop", "app=web") if place_of(pod) is not node)
    # Nothing tries again: the one call that it makes each time it starts is either captured or fails.
    alone("boots", f"wget -q -O - http://{field('shop', server, '.status.podIP')}:8080/hostname", node=node.name, restart="Always")
    said = lambda: k("-n", "shop", "logs", "boots").strip()
    wait("its first call", lambda: said() == server)
    nodes.kill(node)
    nodes.start(node, [])
    began = time.monotonic()
    wait("the pod to start again", lambda: field("shop", "boots", ".status.containerStatuses[0].restartCount") == "1" and said() == server)
    took = time.monotonic() - began
    own = field("shop", "boots", ".status.podIP")
    calls = wait("records of its call at both ends", lambda: (found := [line for line in records(f"{own}:") if server in line])[1:] and found)
    check(all("by tunnel with mutual TLS" in line for line in calls), f"calls of the pod that started again: {calls}")
    print(f"  a pod of the mesh ran {took:.0f} s after its node's power was back")
    client = names("shop", "app=client")[0]
    wait("a call through a Service", lambda: call(client, "web"))
    k("-n", "shop", "delete", "pod", "boots", "--now")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")


def root_rotation(mesh):
    """The root is replaced in the three steps that README says, under load: no call fails, and a connection that stands goes on until
    the root that vouched for it is gone."""
    client, pods = names("shop", "app=client")[0], names("shop", "app")
    server = next(pod for pod in names("shop", "app=web") if place_of(pod) is not place_of(client))
    with tempfile.TemporaryDirectory() as folder:
        key, root = f"{folder}/key.pem", f"{folder}/root.pem"
        command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=next",
                "-keyout", key, "-out", root, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        with open(key) as file, open(root) as other:
            key, root = file.read(), other.read()
    secret = json.loads(k("-n", SYSTEM, "get", "secret", "aquifer-ca", "-o", "json"))["data"]
    old = base64.b64decode(secret["root-cert.pem"]).decode()
    put = lambda files: k("-n", SYSTEM, "patch", "secret", "aquifer-ca", "-p", json.dumps({"stringData": files}))
    held = lambda: [json.loads(mesh.aquifer("certificates", "-n", "shop", pod, "-o", "json").stdout) for pod in pods]
    calls = Calls(client, "web")
    calls.hold(field("shop", server, ".status.podIP"))
    put({"root-cert.pem": f"{old.rstrip()}\n{root}"})
    wait("every node to trust both roots", lambda: all(len(each["roots"]) == 2 for each in held()))
    put({"ca-cert.pem": root, "ca-key.pem": key, "cert-chain.pem": root})
    began = time.monotonic()
    wait("every certificate to be of the next issuer", lambda: all("CN=next" in each["issuer"] for each in held()))
    print(f"  every certificate was of the next issuer after {time.monotonic() - began:.0f} s")
    check(calls.holds(), "a connection ended while its root was trusted")
    put({"root-cert.pem": root})
    wait("every node to trust the next root alone", lambda: all(len(each["roots"]) == 1 for each in held()))
    wait("the connection to end whose root is gone", lambda: not calls.holds())
    calls.wait_for_more(20)
    print(f"  {calls.stop()} calls while the root was replaced, none failed")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")
