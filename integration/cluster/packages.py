"""The mesh in each of its packages: the Helm chart and the kustomization say what `aquifer install` says."""

import json
import os

from places import BIN, ROOT, STATE, UNDERLAY, kubectl
from bed import DEADLINE, Calls, check, command, k, mesh_is_gone, names, needs, rules, wait

CHART = ROOT / "deploy/chart"
# A value of each setting that is not its default; the chart's values are named as the flags.
OTHERS = {
    "image": "example.com/mirror/aquifer:7",
    "controllerReplicas": 3,
    "trustDomain": "mesh.example",
    "clusterId": 'one", x: "two',
    "clusterDomain": "cluster.example",
    "logFormat": "json",
    "cniConfDir": "/var/lib/cni/conf",
    "cniBinDir": "/var/lib/cni/bin",
    "nodeAccount": "istio-system/ztunnel",
    "untaintNodes": True,
}


def helm(*arguments, **options):
    """Helm as an administrator has it, with its files beside the cluster's."""
    homes = [f"HELM_{what}_HOME={STATE}/helm" for what in ("CACHE", "CONFIG", "DATA")]
    config = f"KUBECONFIG={STATE}/pki/admin.conf"
    return command("ip", "netns", "exec", UNDERLAY, "env", *homes, config, BIN / "helm", *arguments, **options).stdout


def flag(setting):
    return "--" + "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in setting)


def objects(text):
    """The objects of a text of YAML documents, by what they are called, as kubectl reads them."""
    text, found = k("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", stdin=text), {}
    while text := text.lstrip():
        read, end = json.JSONDecoder().raw_decode(text)
        text = text[end:]
        for each in read["items"] if read["kind"] == "List" else [read]:
            name = (each["apiVersion"], each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
            check(name not in found, f"there are two of {name}")
            found[name] = each
    return found


def differences(this, that, path=""):
    """Where two objects differ, and what each has there. Kubernetes knows things of a list by their names where they have some."""
    named = lambda value: isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value)
    if named(this) and named(that):
        this, that = ({each["name"]: each for each in value} for value in (this, that))
    if isinstance(this, dict) and isinstance(that, dict):
        return [each for key in this.keys() | that.keys() for each in differences(this.get(key), that.get(key), f"{path}.{key}")]
    if isinstance(this, list) and isinstance(that, list) and len(this) == len(that):
        return [each for number, both in enumerate(zip(this, that)) for each in differences(*both, f"{path}[{number}]")]
    return [] if this == that else [f"{path}: {this} and {that}"]


def same(what, these, those):
    """Whether two packages have equal objects."""
    check(these.keys() == those.keys(), f"{what}: only in one of both: {these.keys() ^ those.keys()}")
    found = [f"{'/'.join(name)}{each}" for name in these for each in differences(these[name], those[name])]
    check(not found, f"`aquifer install` and {what} differ: {'; '.join(found)}")


def refused(level, workload):
    """What a namespace of a Pod Security level has against a workload's pod, or None."""
    name = f"level-{level}"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": workload["metadata"]["name"], "namespace": name}}
    template = workload["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": name}, "spec": template["spec"]}
    try:
        for each in (space, account):
            k("apply", "-f", "-", stdin=json.dumps(each))
        done = command(*kubectl("create", "--dry-run=server", "-f", "-"), stdin=json.dumps(pod), ok=False)
        return None if done.returncode == 0 else done.stderr
    finally:
        k("delete", "namespace", name, "--wait=false")


def packages(mesh):
    """Helm's chart, by its own values and with every setting changed, and the kustomization have the objects of `aquifer install`; the
    controller keeps to the strictest Pod Security level."""
    needs("helm")
    installed = objects(mesh.aquifer("install").stdout)
    check(len(installed) > 10, f"only {len(installed)} objects are read")
    [controller] = [each for name, each in installed.items() if name[1] == "Deployment"]
    why = refused("restricted", controller)
    check(why is None, f"the controller does not keep to `restricted`: {why}")
    same("deploy/", installed, objects(k("kustomize", ROOT / "deploy")))
    overlay = STATE / "overlay"
    overlay.mkdir(exist_ok=True)
    base, component = (os.path.relpath(ROOT / folder, overlay.resolve()) for folder in ("deploy", "deploy/untaint"))
    (overlay / "kustomization.yaml").write_text(f"resources: [{base}]\ncomponents: [{component}]\n")
    same("deploy/untaint", objects(mesh.aquifer("install", "--untaint-nodes").stdout), objects(k("kustomize", overlay)))
    same("deploy/chart", installed, objects(helm("template", "aquifer", CHART)))
    values = STATE / "values.json"
    values.write_text(json.dumps(OTHERS))
    flags = [part for setting, value in OTHERS.items() for part in ([flag(setting)] if value is True else [flag(setting), str(value)])]
    changed = objects(mesh.aquifer("install", *flags).stdout)
    check(changed != installed, "the flags of `aquifer install` change nothing")
    same("deploy/chart with other values", changed, objects(helm("template", "aquifer", CHART, "--values", values)))


def by_helm(mesh):
    """The mesh is installed and removed by Helm. Pods that are still in it are set free without a failed call, and nothing is left."""
    needs("helm")
    helm("install", "aquifer", CHART)
    mesh.aquifer("check", "--wait", f"{DEADLINE}s")
    wait("all pods to be in the mesh", lambda: len(mesh.in_mesh("shop")) == 3)
    calls = Calls(names("shop", "app=client")[0], "web")
    calls.wait_for_more(20)
    helm("uninstall", "aquifer")
    wait("the namespace to be gone", mesh_is_gone)
    calls.wait_for_more(20)
    print(f"  {calls.stop()} calls while Helm removed the mesh, none failed")
    check(not any(rules(pod) for pod in names("shop", "app")), "packet rules are left in a pod")
    left = k("get", "clusterroles,clusterrolebindings,customresourcedefinitions", "-o", "name")
    check("aquifer" not in left, f"left behind: {left}")
