"""The cluster's programs, built from Go modules whose versions go.mod and go.sum pin."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess

from places import BIN, HERE, fail, run

PROGRAMS = HERE / "programs"
KUBERNETES = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]
# What single scenarios need: Helm, and the Gateway API's conformance suite with the application of its mesh tests.
EXTRAS = {
    "helm": (["helm"], ["helm.sh/helm/v3/cmd/helm"]),
    "conformance": (["conformance.test"], ["."]),
    "echo": (["echo/client", "echo/server"], [f"istio.io/istio/pkg/test/echo/cmd/{name}" for name in ("client", "server")]),
}
GATEWAY_API = BIN / "gateway-api"
ENVIRONMENT = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}
# Debian's packages for what is not built: the container runtime, CNI's own plug-ins, a static shell for test pods, keys.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "openssl": "openssl",
    "curl": "curl",
    "gcc": "gcc libc6-dev",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/bin/busybox": "busybox-static",
}


def missing():
    """What keeps a cluster from running here, each with how to get it."""
    lacking = [f"{what} (apt-get install {package})" for what, package in PACKAGES.items() if not shutil.which(what)]
    if os.geteuid() != 0:
        lacking.append("root")
    lacking += [f"{name} (python3 integration/cluster build)" for name in KUBERNETES + ["etcd", "coredns"] if not (BIN / name).exists()]
    return lacking


def build():
    """The cluster's own programs, and what single scenarios need more."""
    if not shutil.which("go"):
        fail("Go 1.26 or newer builds Kubernetes: get it from go.dev/dl")
    BIN.mkdir(parents=True, exist_ok=True)
    version = re.search(r"^require k8s.io/kubernetes (\S+)", (PROGRAMS / "k8s/go.mod").read_text(), re.M).group(1)
    stamp = {
        "buildDate": "1970-01-01T00:00:00Z",
        "gitCommit": "0" * 40,
        "gitMajor": "1",
        "gitMinor": version.split(".")[1],
        "gitTreeState": "clean",
        "gitVersion": version,
    }
    # Without them the programs say that they are of no version, and their clients refuse them.
    packages = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"]
    flags = " ".join(f"-X {package}.{name}={value}" for package in packages for name, value in stamp.items())
    commands = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES]
    program("k8s", KUBERNETES, f"-s -w {flags}", commands)
    program("etcd", ["etcd"], "-s -w", ["go.etcd.io/etcd/server/v3"])
    program("coredns", ["coredns"], "-s -w", ["."])
    lacking = [module for module, wanted in EXTRAS.items() if not extra(module, *wanted)]
    if lacking:
        print(f"cluster: {', '.join(lacking)} cannot be built here (see above); the scenarios that need them are skipped", flush=True)
        if os.environ.get("AQUIFER_NO_SKIP"):
            fail("and AQUIFER_NO_SKIP forbids that")


def extra(module, names, arguments):
    """Builds what a cluster runs without, and tells whether it could be had."""
    try:
        program(module, names, "-s -w", arguments)
        if module == "conformance":
            kinds()
    except subprocess.CalledProcessError:
        return False
    return True


def kinds():
    """The Gateway API's custom resources, of the version of its conformance suite."""
    look = ["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api"]
    source = run(*look, cwd=PROGRAMS / "conformance", env=ENVIRONMENT, stdout=subprocess.PIPE, text=True).stdout.strip()
    shutil.rmtree(GATEWAY_API, ignore_errors=True)
    GATEWAY_API.mkdir()
    for file in pathlib.Path(source, "config/crd/standard").glob("*.yaml"):
        (GATEWAY_API / file.name).write_bytes(file.read_bytes())


def program(module, names, flags, arguments):
    """Builds a module's programs, unless they are there from the same versions."""
    folder = PROGRAMS / module
    pinned = hashlib.sha256(b"".join((folder / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()
    mark = BIN / f"{module}.pinned"
    if mark.exists() and mark.read_text() == pinned and all((BIN / name).exists() for name in names):
        return
    print(f"cluster: building {', '.join(names)}", flush=True)
    # One program is a file, several go into the folder. Without profiles each dependency is compiled once for all programs.
    out = f"{BIN / names[0]}".removesuffix(names[0].split("/")[-1]) if len(names) > 1 else BIN / names[0]
    what = ["test", "-c"] if names[0].endswith(".test") else ["build"]
    run("go", *what, "-pgo=off", "-ldflags", flags, "-o", out, *arguments, cwd=folder, env=ENVIRONMENT)
    mark.write_text(pinned)
