"""RBAC minimality: of the rights that the mesh's service accounts have, each is used, and none that they need is missing.

The API server writes down what these accounts ask for (`control.py`). That is compared with the rules that are bound to them, whatever
these are. What is asked for in rare cases only is provoked first: a new root, a server that cannot stream lists, Istio's policies.
"""

import base64
import json
import time
from datetime import datetime, timezone

import control
from bed import DEADLINE, SYSTEM, check, k, serving, wait

ACCOUNTS = f"system:serviceaccount:{SYSTEM}:"
GROUP = f"system:serviceaccounts:{SYSTEM}"
ROLES = "rbac.authorization.k8s.io"
# Time in s for what happens of itself: Istio's kinds are looked for each 5 s, and the authority's Secret.
PATIENCE = 45
# Parts of a right. An empty group is the core's; an empty namespace is all of them; an empty name is any.
PARTS = ("account", "verb", "group", "resource", "namespace", "name")


def right(*parts):
    return dict(zip(PARTS, parts, strict=True))


def words(right):
    where = f"in {right['namespace']}" if right["namespace"] else "in the whole cluster"
    what = ".".join(filter(None, (right["resource"], right["group"]))) + (f"/{right['name']}" if right["name"] else "")
    return f"{right['account']} may {right['verb']} {what} {where}"


def covers(right, asked):
    """Whether a right is one to do what was asked."""
    same = all(right[part] == asked[part] for part in ("account", "verb", "group", "resource"))
    return same and all(right[part] in ("", asked[part]) for part in ("namespace", "name"))


def listed(kinds):
    return json.loads(k("get", kinds, "-A", "-o", "json"))["items"]


def granted():
    """The rights of the mesh's service accounts, each alone."""
    rules = {(role["kind"], role["metadata"].get("namespace", ""), role["metadata"]["name"]): role["rules"] or [] for role in listed("clusterroles,roles")}
    found = []
    for binding in listed("clusterrolebindings,rolebindings"):
        role, space = binding["roleRef"], binding["metadata"].get("namespace", "")
        for subject in binding.get("subjects") or []:
            check(subject["name"] != GROUP, f"{binding['metadata']['name']} gives rights to every account of {SYSTEM}, and not to one")
            if subject["kind"] != "ServiceAccount" or subject.get("namespace") != SYSTEM:
                continue
            for rule in rules[role["kind"], space if role["kind"] == "Role" else "", role["name"]]:
                lists = [rule["verbs"], rule.get("apiGroups", []), rule.get("resources", []), rule.get("resourceNames", [""])]
                check("*" not in sum(lists, []), f"{role['name']} has a rule of all that there is: {rule}")
                check("nonResourceURLs" not in rule, f"{role['name']}: this scenario does not look at paths: {rule}")
                found += [right(subject["name"], verb, group, resource, space, name)
                          for verb in lists[0] for group in lists[1] for resource in lists[2] for name in lists[3]]
    return found


def audited(since):
    """What the API server wrote down of the accounts since a time."""
    # The last line may be under way.
    events = map(json.loads, control.AUDIT.read_text().split("\n")[:-1])
    return [event for event in events if event["user"]["username"].startswith(ACCOUNTS) and datetime.fromisoformat(event["requestReceivedTimestamp"]) >= since]


def asked():
    """What the accounts asked for since the mesh was installed, as pairs of a right and whether the server's rules allowed it."""
    installed = datetime.fromisoformat(k("get", "namespace", SYSTEM, "-o", "jsonpath={.metadata.creationTimestamp}"))
    found = set()
    for event in audited(installed):
        user, on = event["user"]["username"], event.get("objectRef")
        allowed = event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow"
        on = on or {"resource": event["requestURI"].split("?")[0]}
        resource = "/".join(filter(None, (on.get("resource"), on.get("subresource"))))
        parts = (user.removeprefix(ACCOUNTS), event["verb"], on.get("apiGroup", ""), resource, on.get("namespace", ""), on.get("name", ""))
        found.add((parts, allowed))
    return [(right(*parts), allowed) for parts, allowed in found]


def state():
    """The rights that were never used; what was refused, and is no right even now; how many rights there are. A server that starts may
    refuse what it allows once it has read its rules."""
    rights, all_asked = granted(), asked()
    unused = [right for right in rights if not any(allowed and covers(right, each) for each, allowed in all_asked)]
    refused = [each for each, allowed in all_asked if not allowed and not any(covers(right, each) for right in rights)]
    return unused, refused, len(rights)


def settled():
    """The state once every right is used or one is seen to be missing, or when long enough was waited for that."""
    until = time.monotonic() + PATIENCE
    while True:
        unused, refused, count = state()
        if not unused or refused or time.monotonic() > until:
            return unused, refused, count
        time.sleep(0.5)


def root_added():
    """A next root is added to those that are trusted, and taken away again: the first step of a rotation, which is published."""
    secret = json.loads(k("-n", SYSTEM, "get", "secret", "aquifer-ca", "-o", "json"))["data"]
    roots = base64.b64decode(secret["root-cert.pem"])
    more = roots.rstrip() + b"\n" + (control.PKI / "ca.crt").read_bytes()
    for value in (more, roots):
        patch = {"data": {"root-cert.pem": base64.b64encode(value).decode()}}
        k("-n", SYSTEM, "patch", "secret", "aquifer-ca", "-p", json.dumps(patch))
        published = lambda: k("-n", SYSTEM, "get", "configmap", "aquifer-ca-root", "-o", "jsonpath={.data.root-cert\\.pem}").count("BEGIN CERTIFICATE")
        wait("the roots to be published", lambda: published() == value.count(b"BEGIN CERTIFICATE") or state()[1])


def listeners(since):
    """Names of the node proxies that have a watch of the DaemonSet now, which began after a time."""
    events = [event for event in audited(since) if event["verb"] == "watch" and event.get("objectRef", {}).get("resource") == "daemonsets"]
    ended = {event["auditID"] for event in events if event["stage"] != "ResponseStarted"}
    return {event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0] for event in events if event["auditID"] not in ended}


def istio_kinds():
    """Istio's kinds of policies: their specs are those of ours."""
    kinds = []
    for name in ("authorizationpolicies", "peerauthentications"):
        kind = json.loads(k("get", "customresourcedefinition", f"{name}.aquifer.dev", "-o", "json"))
        versions = [version | {"name": "v1"} for version in kind["spec"]["versions"][:1]]
        spec = {part: kind["spec"][part] for part in ("names", "scope")} | {"group": "security.istio.io", "versions": versions}
        metadata = {"name": f"{name}.security.istio.io"}
        kinds.append({"apiVersion": kind["apiVersion"], "kind": kind["kind"], "metadata": metadata, "spec": spec})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": kinds})


ISTIO_POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {action: DENY, selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [nowhere]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}}
"""


def rights(mesh):
    """Every right in the manifests is used by what the scenarios did and this one provokes, and no right is missing."""
    kinds = istio_kinds()
    k("apply", "-f", "-", stdin=kinds)
    try:
        k("wait", "customresourcedefinitions", "--for=condition=Established", "--all", f"--timeout={DEADLINE}s")
        k("apply", "-f", "-", stdin=ISTIO_POLICIES)
        root_added()
        # A server that cannot stream a list: nodes that have no controller read lists, and so do controllers that start.
        control.stop("kube-apiserver")
        control.start_api_server("--feature-gates=WatchList=false")
        k("-n", SYSTEM, "scale", "deployment/aquifer-controller", "--replicas=0")
        of_nodes = lambda: [right for right in state()[0] if right["account"] == "aquifer-node"]
        wait("the nodes to read the API server", lambda: not of_nodes() or state()[1])
        k("-n", SYSTEM, "scale", "deployment/aquifer-controller", "--replicas=2")
        k("-n", SYSTEM, "rollout", "status", "deployment/aquifer-controller", f"--timeout={DEADLINE}s")
        unused, refused, count = settled()
        check(not refused, f"a right is missing: {'; '.join(map(words, refused))}")
        check(not unused, f"a right is never used: {'; '.join(map(words, unused))}")
    finally:
        control.stop("kube-apiserver")
        started = datetime.now(timezone.utc)
        control.start_api_server()
        k("delete", "--ignore-not-found", "-f", "-", stdin=kinds)
    # A node that does not listen would not hear that the mesh is removed.
    wait("every node to listen to the API server again", lambda: serving() <= listeners(started))
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")
    print(f"  {count} rights, each used; nothing was refused")
