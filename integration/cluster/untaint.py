"""Scenarios of nodes that are new: with the option `--untaint-nodes` no pod of the mesh begins on one before its traffic can be captured."""

import time

import nodes
from bed import (
    DEADLINE, SYSTEM, alone, check, field, k, keep_proxy_off, let_proxy_back, mesh_is_gone, names, place_of, plugins, proxies_on, records, runs,
    wait,
)
from places import NODES

OURS, OTHER = "aquifer.dev/not-ready", "example.com/other"
# Nothing tries again: the one call of such a pod is either captured or fails.
CALL = "wget -q -O - http://{address}:8080/hostname"


def taints(node):
    """Keys of a node's taints."""
    return k("get", "node", node.name, "-o", "jsonpath={.spec.taints[*].key}").split()


def waiting(name, node, address, **more):
    """A pod of the mesh that only this node will do for, by the scheduler's choice."""
    alone(name, CALL.format(address=address), nodeSelector={"kubernetes.io/hostname": node.name}, **more)


def called(name, server):
    """Waits for the pod's one call, and that it was carried by the mesh, as the records of both ends tell."""
    wait("the answer to its first call", lambda: k("-n", "shop", "logs", name).strip() == server)
    own = field("shop", name, ".status.podIP")
    calls = wait("a record of it at both ends", lambda: (found := [line for line in records(f"{own}:") if server in line])[1:] and found)
    check(len(calls) == 2 and all("by tunnel with mutual TLS" in line for line in calls), f"the first call: {calls}")


def untaint(mesh):
    """Pods wait for the taint of a node whose proxy is away, and of a node that is new; the controller takes it off, and no other, once the
    proxy is ready. What they do first is in the mesh."""
    near = next(node for node in NODES if node is not place_of(names("kube-system", "k8s-app=kube-dns")[0], "kube-system"))
    server = next(pod for pod in names("shop", "app=web") if place_of(pod) is not near)
    address = field("shop", server, ".status.podIP")

    # Without the option nobody takes the taint off, and `check` says so. It comes by another installation, and an upgrade keeps it.
    k("taint", "nodes", near.name, f"{OURS}=:NoSchedule", f"{OTHER}=:NoSchedule")
    mend = mesh.finds("taints", near.name, OURS)
    check(f"kubectl taint nodes {near.name} {OURS}-" in mend, mend)
    k("apply", "-f", "-", stdin=mesh.aquifer("install", "--untaint-nodes").stdout)
    wait("the taint to go", lambda: taints(near) == [OTHER])
    k("-n", SYSTEM, "rollout", "status", "deployment/aquifer-controller", f"--timeout={DEADLINE}s")
    upgrade = mesh.aquifer("upgrade").stdout
    check('{name: AQUIFER_UNTAINT_NODES, value: "true"}' in upgrade and "resources: [nodes], verbs: [patch]" in upgrade, "an upgrade does not keep the option")

    # A proxy is away: pods wait for it at the scheduler.
    keep_proxy_off(near)
    k("taint", "nodes", near.name, f"{OURS}=:NoSchedule")
    waiting("early", near, address, tolerations=[{"key": OTHER, "operator": "Exists"}])
    message = lambda: field("shop", "early", ".status.conditions[?(@.type=='PodScheduled')].message")
    # The other taint it tolerates.
    wait("the scheduler to name a taint", lambda: "1 node(s) had untolerated taint" in message())
    check(not runs("early") and sorted(taints(near)) == [OURS, OTHER], f"the node has {taints(near)}")
    let_proxy_back()
    began = time.monotonic()
    wait("the taint to go", lambda: taints(near) == [OTHER])
    print(f"  a taint was gone {time.monotonic() - began:.1f} s after its node's proxy was seen to be ready")
    called("early", server)
    k("taint", "nodes", near.name, f"{OTHER}-")

    # A machine that never had a proxy. The pod is there before its node is.
    k("-n", "shop", "delete", "pod", "early", "--now")
    nodes.kill(near)
    k("delete", "node", near.name)
    k("delete", "pods", "-A", "--field-selector", f"spec.nodeName={near.name}", "--force", "--grace-period=0")
    nodes.renew(near)
    waiting("first", near, address)
    nodes.start(near, taints=f"{OURS}=:NoSchedule")
    wait("the node to be registered", lambda: taints(near))
    check(OURS in taints(near), f"it has only the taints {taints(near)}")
    nodes.assign(near)
    began = time.monotonic()
    wait("the pod to run", lambda: runs("first"))
    print(f"  a pod of the mesh ran {time.monotonic() - began:.0f} s after its new node was registered")
    check(plugins(near)[-1] == "aquifer-cni", "the plug-in is not in its place")
    [proxy] = proxies_on(near)
    ready = field(SYSTEM, proxy, ".status.conditions[?(@.type=='Ready')].lastTransitionTime")
    begun = field("shop", "first", ".status.startTime")
    # Both are of one kubelet, in whole seconds and in a form that sorts by time.
    check(ready <= begun, f"the pod began at {begun}, and the proxy was ready at {ready}")
    called("first", server)
    check(not taints(near), f"the node still has {taints(near)}")
    k("-n", "shop", "delete", "pod", "first", "--now")
    k("-n", "shop", "rollout", "status", "deployment/web", f"--timeout={DEADLINE}s")
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")
    log = k("-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=aquifer-controller", "--tail=-1")
    check(f"node={near.name}" in log.replace('"', "") and "its taint is taken off" in log, "the log does not tell whose taint was taken off")


def new_cluster(mesh):
    """All nodes are new, so that nothing else runs, DNS neither: the mesh gets ready, and opens the cluster."""
    dns = ["-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[*].status.phase}"]
    k("taint", "nodes", "--all", f"{OURS}=:NoExecute")
    wait("DNS to be away", lambda: k(*dns).split() == ["Pending"])
    began = time.monotonic()
    k("apply", "-f", "-", stdin=mesh.aquifer("install", "--untaint-nodes").stdout)
    wait("every node to be opened", lambda: not any(map(taints, NODES)))
    print(f"  a cluster of new nodes was open {time.monotonic() - began:.1f} s after the mesh was applied")
    wait("DNS to be back", lambda: k(*dns).split() == ["Running"])
    k("delete", "--wait=false", "-f", "-", stdin=mesh.aquifer("uninstall").stdout)
    wait("the namespace to be gone", mesh_is_gone)
