"""The cluster's programs, built from Go modules whose versions go.mod and go.sum pin."""

import hashlib
import os
import re
import shutil

from places import BIN, HERE, fail, run

PROGRAMS = HERE / "programs"
KUBERNETES = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]
# Debian's packages for what is not built: the container runtime, CNI's own plug-ins, a static shell for test pods, keys.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "openssl": "openssl",
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


def program(module, names, flags, packages):
    """Builds a module's programs, unless they are there from the same versions."""
    folder = PROGRAMS / module
    pinned = hashlib.sha256(b"".join((folder / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()
    mark = BIN / f"{module}.pinned"
    if mark.exists() and mark.read_text() == pinned and all((BIN / name).exists() for name in names):
        return
    print(f"cluster: building {', '.join(names)}", flush=True)
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false"}
    # One program is a file, several go into the folder. Without profiles each dependency is compiled once for all programs.
    out = f"{BIN}/" if len(names) > 1 else BIN / names[0]
    run("go", "build", "-pgo=off", "-ldflags", flags, "-o", out, *packages, cwd=folder, env=environment)
    mark.write_text(pinned)
