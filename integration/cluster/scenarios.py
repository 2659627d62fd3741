"""Scenarios on the cluster, with the mesh as users install it: `python3 integration/cluster test AQUIFER IMAGE.tar`.

Each scenario is a story of one function. They run one after another on one cluster, in the order of a user's day: install, opt in, policy,
trouble, opt out, uninstall. Nothing sleeps for luck: what is to happen is waited for, with a deadline.
"""

import base64
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
import traceback

from bed import (
    DEADLINE, NODE, POLICIES, SYSTEM, Calls, Mesh, Skipped, alone, apply, call, check, command, field, inside, k, keep_proxy_off, kernel_keys, let_proxy_back, mesh_is_gone,
    names, next_try, place_of, plugins, proxies_on, records, rules, runs, serving, state_of_things, wait,
)
from conformance import conformance
from demo import demo
from packages import by_helm, packages
from places import HERE, NODES, STATE, UNDERLAY, kubectl
from rights import rights
from tokens import tokens
from untaint import new_cluster, untaint
from trouble import (
    api_server_away, controller_away, node_deleted, node_rebooted, node_update, partition, root_rotation, starts_alone, worker_killed,
)


def install(mesh):
    """The mesh is installed with one command, and says of itself that all is well."""
    check(mesh.aquifer("check", "--pre").returncode == 0, "the cluster is said to be unfit")
    k("apply", "-f", "-", stdin=mesh.aquifer("install").stdout)
    k("-n", SYSTEM, "rollout", "status", "deployment/aquifer-controller", f"--timeout={DEADLINE}s")
    k("-n", SYSTEM, "rollout", "status", "daemonset/aquifer-node", f"--timeout={DEADLINE}s")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")


def opt_in(mesh):
    """Running pods join by a label, without a restart and without a failed call; then calls between nodes are mutually authenticated."""
    k("apply", "-f", HERE / "shop.yaml")
    for workload in ("deployment/web", "deployment/client"):
        k("-n", "shop", "rollout", "status", workload, f"--timeout={DEADLINE}s")
    client = names("shop", "app=client")[0]
    wait("a call before the mesh", lambda: call(client, "web"))
    restarts = k("-n", "shop", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}")
    k("label", "namespace", "shop", "aquifer.dev/mesh=ambient")
    while len(mesh.in_mesh("shop")) < 3:
        check(call(client, "web"), "a call failed while pods joined")
    check(all(rules(pod) for pod in names("shop", "app")), "a pod is in the mesh and its traffic is not captured")
    check(restarts == k("-n", "shop", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"), "a pod was restarted")
    answered = {call(client, "web") for _ in range(12)}
    check(answered == set(names("shop", "app=web")), f"only {answered} answered")


def every_way(mesh):
    """By ClusterIP, by headless name and by the pods' own addresses, on one node and across nodes."""
    client = names("shop", "app=client")[0]
    here = field("shop", client, ".spec.nodeName")
    for pod in names("shop", "app=web"):
        address = field("shop", pod, ".status.podIP")
        check(call(client, f"{address}:8080") == pod, f"{pod} did not answer at {address}")
        path = "same-node" if field("shop", pod, ".spec.nodeName") == here else "tunnel with mutual TLS"
        wait(f"a record of the call to {pod} by {path}", lambda: any(f"by {path}" in line for line in records(pod)))
    check(call(client, "web-headless:8080") in names("shop", "app=web"), "the headless name did not answer")


def policy(mesh):
    """A policy takes effect at once and is gone at once; STRICT keeps callers without identity out."""
    client, outsider = names("shop", "app=client")[0], names("default", "app=outsider")[0]
    deny = {"action": "DENY", "rules": [{"from": [{"source": {"serviceAccounts": ["client"]}}]}]}
    apply("AuthorizationPolicy", "no-client", deny, POLICIES)
    wait("the policy to deny", lambda: call(client, "web") is None)
    check(call(outsider, "web.shop", "default"), "a caller whom the policy does not name was denied")
    wait("a record that names the policy", lambda: any("denied" in line and "shop/no-client" in line for line in records("web")))
    k("-n", "shop", "delete", "authorizationpolicies.aquifer.dev", "no-client")
    wait("the policy to be gone", lambda: call(client, "web"))
    apply("PeerAuthentication", "strict", {"mtls": {"mode": "STRICT"}}, POLICIES)
    wait("STRICT to keep the outsider out", lambda: call(outsider, "web.shop", "default") is None)
    check(call(client, "web"), "STRICT keeps a mesh peer out")
    k("-n", "shop", "delete", "peerauthentications.aquifer.dev", "strict")
    wait("the outsider to be let in again", lambda: call(outsider, "web.shop", "default"))


PROBED = """
apiVersion: v1
kind: Pod
metadata: {name: probed, namespace: shop, labels: {app: probed}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: localhost/busybox:1
    command: [httpd, -f, -p, "8080", -h, /etc]
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 1}
    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: deaf, namespace: shop, labels: {app: deaf}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: localhost/busybox:1
    command: [/bin/sleep, "1000000"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: aquifer.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""


def strict_probes(mesh):
    """Under STRICT kubelet's probes pass, and other processes of the node do not. A TCP probe, which closes what it opened at once, is no
    denied call, and fails where nobody listens."""
    k("apply", "-f", "-", stdin=PROBED)
    k("-n", "shop", "wait", "pod/probed", "--for=condition=Ready", f"--timeout={DEADLINE}s")
    wait("the pod in the mesh", lambda: "probed" in mesh.in_mesh("shop"))
    wait("records of probes that STRICT would refuse", lambda: sum("kubelet probe" in line for line in records("probed")) >= 5)
    wait("records of TCP probes", lambda: sum("abandoned" in line for line in records("probed")) >= 3)
    denied = [line for line in records("probed") if "denied" in line]
    check(not denied, f"a probe is told as a denied call: {denied[:3]}")
    failed = lambda: k("-n", "shop", "get", "events", "--field-selector", "involvedObject.name=deaf,reason=Unhealthy", "-o", "jsonpath={.items[*].message}")
    wait("a TCP probe to fail where nobody listens", lambda: "refused" in failed())
    check("deaf" in mesh.in_mesh("shop"), "the pod that does not listen is not in the mesh")
    check(field("shop", "deaf", ".status.conditions[?(@.type=='Ready')].status") == "False", "a pod that does not listen is ready")
    place = place_of("probed")
    url = f"http://{field('shop', 'probed', '.status.podIP')}:8080/hostname"
    check(command(*place.enter("busybox", "wget", "-q", "-O", "-", url), ok=False).returncode != 0, "a process of the node passed STRICT")
    ready = field("shop", "probed", ".status.conditions[?(@.type=='Ready')].status")
    restarts = field("shop", "probed", ".status.containerStatuses[0].restartCount")
    check((ready, restarts) == ("True", "0"), f"ready: {ready}, restarts: {restarts}")
    k("delete", "-f", "-", stdin=PROBED)


def starts_captured(mesh):
    """A pod's first instruction is in the mesh. Without a proxy on its node it waits, says so, and runs soon after; others do not wait."""
    check(all(plugins(node)[-1] == "aquifer-cni" for node in NODES), "the plug-in is not in its place")
    server = names("shop", "app=web")[0]
    address, far = field("shop", server, ".status.podIP"), place_of(server)
    near = next(node for node in NODES if node is not far)

    # Nothing tries again: the one call that it makes is either captured or fails.
    alone("first", f"wget -q -O - http://{address}:8080/hostname", node=near.name)
    wait("the answer to a pod's first call", lambda: k("-n", "shop", "logs", "first").strip() == server)
    own = field("shop", "first", ".status.podIP")
    calls = wait("a record of it at both ends", lambda: (found := [line for line in records(f"{own}:") if server in line])[1:] and found)
    check(len(calls) == 2 and all("by tunnel with mutual TLS" in line for line in calls), f"the first call: {calls}")

    # The proxy is away from the node: pods of the mesh wait, others do not.
    keep_proxy_off(near)
    alone("held", "true", node=near.name)
    alone("free", "true", namespace="default", node=near.name)
    wait("a pod outside the mesh to run without a proxy", lambda: runs("free", "default"))
    events = lambda: k("-n", "shop", "get", "events", "--field-selector", "involvedObject.name=held", "-o", "jsonpath={.items[*].message}")
    wait("an event that says why the pod waits", lambda: "no Aquifer node proxy runs on this node" in events())
    check(not runs("held"), "a pod of the mesh runs without a proxy")
    next_try(near)
    let_proxy_back()
    wait("the pod that waited to run", lambda: runs("held"))
    wait("it in the mesh", lambda: "held" in mesh.in_mesh("shop"))

    # Somebody writes the node's configuration anew.
    script = "import json; f='/etc/cni/net.d/10-pods.conflist'; n=json.load(open(f)); n['plugins'].pop(); open(f, 'w').write(json.dumps(n))"
    command(*near.enter("python3", "-c", script))
    wait("the plug-in to be back", lambda: plugins(near)[-1] == "aquifer-cni")
    mesh.finds("cni", near.name)
    for pod, namespace in (("first", "shop"), ("held", "shop"), ("free", "default")):
        k("-n", namespace, "delete", "pod", pod, "--now")


def asked(mesh):
    """What the data plane has is what the controller says; certificates, logs, live explain and upgrade tell and do what they say."""
    client, web = names("shop", "app=client")[0], names("shop", "app=web")[0]
    shown = json.loads(mesh.aquifer("certificates", web, "-n", "shop", "-o", "json").stdout)
    check(shown["identity"] == "spiffe://cluster.local/ns/shop/sa/default" and not shown["rootDifferences"], f"{shown}")
    both = json.loads(mesh.aquifer("config", f"shop/{web}", "-o", "json").stdout)
    kinds = {(each["kind"], each["name"]) for each in both["objects"]}
    check({("Workload", f"shop/{web}"), ("Service", "shop/web")} <= kinds, f"config of a pod has only {kinds}")
    for node in NODES:
        mesh.aquifer("config", f"node/{node.name}")
    level = lambda *more: {each["node"]: each["filter"] for each in json.loads(mesh.aquifer("logs", "level", *more, "-o", "json").stdout)}
    before = level("--node", "n1")["n1"]
    check(level("debug", "--node", "n1") == {"n1": "debug"} and level("--node", "n2")["n2"] == before, "the wrong log changed")
    level(before, "--node", "n1")
    explained = mesh.aquifer("explain", f"shop/{client}", "svc/shop/web").stdout
    check("ALLOWED" in explained and f"shop/{web}" in explained, explained)
    check("created" not in k("apply", "-f", "-", stdin=mesh.aquifer("upgrade").stdout), "an upgrade to the same version makes new objects")
    mesh.aquifer("upgrade", "--wait", f"{DEADLINE}s")
    k("-n", SYSTEM, "create", "serviceaccount", "old")
    k("-n", SYSTEM, "label", "serviceaccount", "old", "app.kubernetes.io/part-of=aquifer")
    left = k("delete", "-f", "-", stdin=mesh.aquifer("upgrade", "--left-over").stdout)
    check(left.split() == ["serviceaccount", '"old"', "deleted"] or left.startswith('serviceaccount "old" deleted'), f"left over: {left}")
    plugin = STATE / "kubectl_complete-aquifer"
    if not plugin.exists():
        os.symlink(mesh.program, plugin)
    offered = command("ip", "netns", "exec", UNDERLAY, plugin, "config", "--kubeconfig", STATE / "pki/admin.conf", "-n", "shop", "").stdout
    check(web in offered.split() and client in offered.split(), f"completion offers {offered}")


CA = """
[ca]
default_ca = one
[one]
database = {folder}/database
new_certs_dir = {folder}
default_md = sha256
rand_serial = yes
policy = any
x509_extensions = root
[any]
commonName = supplied
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
"""


def ended_root():
    """The certificate of a root that has ended, in PEM."""
    with tempfile.TemporaryDirectory() as folder:
        key, request, config, root = (f"{folder}/{name}" for name in ("key", "request", "config", "root"))
        with open(config, "w") as file:
            file.write(CA.format(folder=folder))
        open(f"{folder}/database", "w").close()
        command("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ended", "-keyout", key, "-out", request)
        command("openssl", "ca", "-config", config, "-selfsign", "-batch", "-notext", "-keyfile", key, "-in", request, "-out", root,
                "-startdate", "20200101000000Z", "-enddate", "20210101000000Z")
        with open(root) as file:
            return file.read()


def faults(mesh):
    """Each planted fault is found by `check`, under its name and with a mend; once mended, check is content."""
    web = names("shop", "app=web")
    far = NODES[1]

    # A rule is missing in one pod. The node lays it again, at once or after a second, so somebody takes it away all the time.
    inside(web[0], "bash -c '(while [ ! -e /tmp/enough ]; do nft flush ruleset; sleep 0.05; done; rm /tmp/enough) >/dev/null 2>&1 &'")

    def without_rules():
        found = mesh.finding("rules")
        return found and f"shop/{web[0]}" in found["found"] and found["mend"]

    wait("check to find missing rules", without_rules)
    command(*place_of(web[0]).enter("touch", "/tmp/enough"))
    wait("the rules to be laid again", lambda: rules(web[0]))

    apply("AuthorizationPolicy", "nobody", {"selector": {"matchLabels": {"app": "webb"}}}, POLICIES)
    mend = mesh.finds("policies", "shop/nobody selects nothing", "app=web")
    check("kubectl -n shop get pods --show-labels" in mend, mend)
    k("-n", "shop", "delete", "authorizationpolicies.aquifer.dev", "nobody")

    apply("Service", "wrong", {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]})
    mend = mesh.finds("service-ports", "Service shop/wrong", 'named "web"')
    check("kubectl -n shop edit service wrong" in mend, mend)
    k("-n", "shop", "delete", "service", "wrong")

    apply("NetworkPolicy", "web", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": 8080}]}]}, "networking.k8s.io/v1")
    mend = mesh.finds("network-policies", "NetworkPolicy shop/web", "15008")
    # The mend is a command, and does it.
    k(*shlex.split(mend)[1:])
    check(mesh.finding("network-policies") is None, "the mend did not help")
    k("-n", "shop", "delete", "networkpolicy", "web")

    # A root that has ended, and one that ends too soon. (A wrong clock cannot be planted: all nodes here have this machine's, of which no
    # namespace of Linux has its own, and the program is static, so that no library can lie to it. `check`'s own tests plant it.)
    mesh.finds("root-expiry", arguments=["--fail-if-expiring-within", "100000d"])
    roots = base64.b64decode(k("-n", SYSTEM, "get", "secret", "aquifer-ca", "-o", "jsonpath={.data.root-cert\\.pem}")).decode()
    put = lambda pem: k("-n", SYSTEM, "patch", "secret", "aquifer-ca", "-p", json.dumps({"stringData": {"root-cert.pem": pem}}))
    put(f"{roots.rstrip()}\n{ended_root()}")
    mend = mesh.finds("root-expiry", "CN=ended", "has ended")
    check("kubectl -n aquifer-system edit secret aquifer-ca" in mend, mend)
    # Kubelet takes a minute or so to bring that to the nodes; the next look at everything waits for it.
    put(roots)

    # Another version on one node.
    old = "ghcr.io/aquifer-mesh/aquifer:0.0.9"
    command(*far.enter("ctr", "-n", "k8s.io", "images", "tag", "ghcr.io/aquifer-mesh/aquifer:0.1.0", old))
    [proxy] = proxies_on(far)
    k("-n", SYSTEM, "set", "image", f"pod/{proxy}", f"node={old}")
    mend = mesh.finds("versions", old, proxy)
    check("aquifer upgrade" in mend, mend)
    # The container is started anew with that image; only then is the pod taken away.
    restarted = lambda: field(SYSTEM, proxy, ".status.containerStatuses[0].restartCount") != "0"
    wait("the other version to serve", lambda: restarted() and proxy in serving())
    k("-n", SYSTEM, "delete", "pod", proxy, "--wait=false")
    wait("another proxy", lambda: len(serving() - {proxy}) == len(NODES))

    # A probe that is interrupted takes its pods away, too.
    gone = lambda: "aquifer-check" not in k("get", "namespaces", "-o", "name")
    probe = subprocess.Popen(["ip", "netns", "exec", UNDERLAY, mesh.program, "check", "--probe", "--kubeconfig", STATE / "pki/admin.conf"])
    wait("the probe to begin", lambda: not gone())
    probe.send_signal(signal.SIGINT)
    check(probe.wait(DEADLINE) == 130, "an interrupted probe did not say so")
    wait("the interrupted probe's namespace to go", gone)

    # The network lets no tunnel pass.
    mesh.aquifer("check", "--probe", "--wait", f"{DEADLINE}s")
    wall = "add table inet planted; add chain inet planted forward { type filter hook forward priority 0; }; add rule inet planted forward tcp dport 15008 drop"
    command(*far.enter("nft", wall))
    mend = mesh.finds("port-15008", "n1", "n2", arguments=["--probe"], deadline=2 * DEADLINE)
    check("TCP 15008" in mend, mend)
    command(*far.enter("nft", "delete table inet planted"))
    mesh.aquifer("check", "--probe", "--wait", f"{DEADLINE}s")
    wait("the probes' namespaces to go", gone)

    k("-n", SYSTEM, "scale", "deployment/aquifer-controller", "--replicas=0")
    mend = mesh.finds("controller", "0 of 0")
    check(mend == "kubectl -n aquifer-system scale deployment/aquifer-controller --replicas=2", mend)
    k(*shlex.split(mend)[1:])
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")

    # A node that hears of nothing.
    command("ip", "-n", UNDERLAY, "link", "set", far.link, "down")
    try:
        mend = mesh.finds("discovery", f"the proxy of {far.name} listens to no controller", deadline=2 * DEADLINE)
        check("15012" in mend, mend)
    finally:
        command("ip", "-n", UNDERLAY, "link", "set", far.link, "up")
    mesh.aquifer("check", "--wait", f"{2 * DEADLINE}s")


def rollout(mesh):
    """New pods of a rollout join, old ones leave, and the Service answers at the end from the new ones alone."""
    client, before = names("shop", "app=client")[0], set(names("shop", "app=web"))
    k("-n", "shop", "rollout", "restart", "deployment/web")
    k("-n", "shop", "rollout", "status", "deployment/web", f"--timeout={DEADLINE}s")
    wait("the old pods to be gone", lambda: not before & set(names("shop", "app=web")))
    wait("the new pods in the mesh", lambda: set(names("shop", "app=web")) <= set(mesh.in_mesh("shop")))
    check(call(client, "web") in names("shop", "app=web"), "no new pod answers")


def opt_out(mesh):
    """Without the label pods leave, without a restart and without a failed call, and nothing of ours stays in them."""
    client = names("shop", "app=client")[0]
    k("label", "namespace", "shop", "aquifer.dev/mesh-")
    while mesh.in_mesh("shop"):
        check(call(client, "web"), "a call failed while pods left")
    pods = names("shop", "app")
    wait("the rules to be gone", lambda: not any(rules(pod) for pod in pods))
    check(call(client, "web"), "a call failed after the pods left")


def status(mesh):
    """What becomes of a policy stands in its status; a refusal is an event, `check` names both; and a replica that goes is replaced as writer."""
    k("label", "namespace", "shop", "aquifer.dev/mesh=ambient", "--overwrite")
    wait("all pods to be in the mesh", lambda: len(mesh.in_mesh("shop")) >= 3)
    client = names("shop", "app=client")[0]

    def says(name, condition, so, reason):
        """Whether a condition of the policy is so, of what stands in it now."""
        policy = json.loads(k("-n", "shop", "get", "authorizationpolicies.aquifer.dev", name, "-o", "json"))
        current = [c for c in policy.get("status", {}).get("conditions", []) if c["observedGeneration"] == policy["metadata"]["generation"]]
        return next((c["message"] for c in current if (c["type"], c["status"], c["reason"]) == (condition, so, reason)), None)

    def becomes(*condition):
        return wait(f"the status {condition}", lambda: says(*condition))

    web = {"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]}
    apply("AuthorizationPolicy", "told", web, POLICIES)
    becomes("told", "Accepted", "True", "Accepted")
    message = becomes("told", "Enforced", "True", "Enforced")
    check("at 2 pods" in message, message)
    version = lambda: k("-n", "shop", "get", "authorizationpolicies.aquifer.dev", "told", "-o", "jsonpath={.metadata.resourceVersion}")
    before = version()

    apply("AuthorizationPolicy", "http", {**web, "action": "AUDIT", "rules": [{"to": [{"operation": {"methods": ["PUT"]}}]}]}, POLICIES)
    becomes("http", "Enforced", "False", "NeedsWaypoint")
    mesh.finds("policies", "shop/http is not enforced as written", "methods")
    k("-n", "shop", "delete", "authorizationpolicies.aquifer.dev", "http")
    check(version() == before, "a status was written although nothing changed")

    apply("AuthorizationPolicy", "told", {**web, "action": "NO"}, POLICIES)
    message = becomes("told", "Accepted", "False", "Invalid")
    check("its last good version stays in use" in message, message)
    mesh.finds("policies", "shop/told cannot be taken as written", "spec.action")
    event = lambda: k("-n", "shop", "get", "events", "--field-selector", "reason=PolicyNotAccepted,involvedObject.name=told", "-o", "name").split()
    wait("an event for the refusal", event)
    check(len(event()) == 1, f"not one event but {event()}")
    check(call(client, "web"), "what the last good version allows is refused")

    leader = lambda: k("-n", SYSTEM, "get", "lease", "aquifer-controller", "-o", "jsonpath={.spec.holderIdentity}").split("_")[0]
    first = leader()
    check(first in names(SYSTEM, "app.kubernetes.io/name=aquifer-controller"), f"{first} leads, and is no controller")
    k("-n", SYSTEM, "delete", "pod", first, "--wait=false")
    wait("another replica to lead", lambda: leader() not in ("", first))
    apply("AuthorizationPolicy", "told", web, POLICIES)
    becomes("told", "Accepted", "True", "Accepted")
    k("-n", "shop", "delete", "authorizationpolicies.aquifer.dev", "told")
    wait("check to be content", lambda: not mesh.finding("policies") and not mesh.finding("leader"))


def uninstall(mesh):
    """The mesh is removed with pods still in it: they are set free without a failed call, what they still carry ends, and nothing is left."""
    k("label", "namespace", "shop", "aquifer.dev/mesh=ambient")
    wait("all pods to be in the mesh", lambda: len(mesh.in_mesh("shop")) == 3)
    client = names("shop", "app=client")[0]
    calls = Calls(client, "web")
    calls.wait_for_more(20)
    live = field("shop", names("shop", "app=web")[0], ".status.podIP")
    calls.hold(live)
    with tempfile.TemporaryFile("w+") as log:
        follow = subprocess.Popen(kubectl("-n", SYSTEM, "logs", "-f", "-l", NODE, "--tail=0"), stdout=log, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        k("delete", "--wait=false", "-f", "-", stdin=mesh.aquifer("uninstall").stdout)
        wait("the namespace to be gone", mesh_is_gone)
        print(f"  the mesh was gone after {time.monotonic() - began:.1f} s")
        follow.wait(DEADLINE)
        log.seek(0)
        ends = [line for line in log if "mesh-removed" in line]
    wait("the connection that stayed to be ended", lambda: not calls.holds())
    check(len(ends) in (1, 2) and live in ends[0], f"records of its end: {ends}")
    calls.wait_for_more(20)
    print(f"  {calls.stop()} calls while the mesh was removed, none failed")
    check(not any(rules(pod) for pod in names("shop", "app")), "packet rules are left in a pod")
    for node in NODES:
        check(command(*node.enter("ls", "/run/aquifer"), ok=False).returncode != 0, f"files are left in /run/aquifer of {node.name}")
    check(not kernel_keys(), f"keys are left in the kernel: {kernel_keys()}")
    left = k("get", "clusterroles,clusterrolebindings,customresourcedefinitions", "-o", "name")
    check("aquifer" not in left, f"left behind: {left}")
    check(call(client, "web"), "a call failed after the mesh was gone")


SCENARIOS = [
    install, packages, opt_in, every_way, policy, tokens, asked, faults, starts_captured, strict_probes, controller_away, api_server_away,
    starts_alone, root_rotation, partition, worker_killed, node_update, node_deleted, node_rebooted, rollout, conformance, opt_out, status, untaint,
    rights, uninstall, by_helm, new_cluster, demo,
]


def test(program, *only):
    """Runs the scenarios; they build on each other, so the first that fails ends the run."""
    mesh, passed, skipped = Mesh(program), 0, 0
    chosen = [scenario for scenario in SCENARIOS if not only or scenario.__name__ in only]
    for scenario in chosen:
        began = time.monotonic()
        try:
            scenario(mesh)
        except Skipped as why:
            skipped += 1
            print(f"cluster scenario {scenario.__name__} ... ignored, {why}", flush=True)
            continue
        except Exception:
            traceback.print_exc()
            print(state_of_things(), flush=True)
            print(f"cluster scenario {scenario.__name__} ... FAILED", flush=True)
            print(f"\ntest result: FAILED. {passed} passed; 1 failed; {len(chosen) - passed - 1} ignored; 0 measured; 0 filtered out", flush=True)
            return False
        passed += 1
        print(f"cluster scenario {scenario.__name__} ... ok ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"\ntest result: ok. {passed} passed; 0 failed; {skipped} ignored; 0 measured; 0 filtered out", flush=True)
    return True
