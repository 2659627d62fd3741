"""The control plane, in a network namespace of its own that is also the switch between the nodes."""

import os
import signal
import subprocess
import time

from certificates import PKI
from places import API, BIN, SERVICES, STATE, UNDERLAY, fail, kubectl, quiet, run

ISSUER = "https://kubernetes.default.svc.cluster.local"
# What the mesh's service accounts ask of the API server, a line of JSON each.
AUDIT = STATE / "audit.log"
AUDITED = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:aquifer-system"]}
- {level: None}
"""
PROGRAMS = ["kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"]


def network():
    run("ip", "netns", "add", UNDERLAY)
    for command in ("link set lo up", "link add br0 type bridge", f"addr add {API}/24 dev br0", "link set br0 up"):
        run("ip", "-n", UNDERLAY, *command.split())


def start():
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    program("etcd", "--name=etcd", f"--data-dir={STATE}/etcd", "--unsafe-no-fsync",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=etcd={peer}")
    start_api_server()
    for name in ("kube-controller-manager", "kube-scheduler"):
        config = PKI / f"{name}.conf"
        more = []
        if name == "kube-controller-manager":
            more = ["--use-service-account-credentials=true", f"--service-account-private-key-file={PKI}/sa.key",
                    f"--root-ca-file={PKI}/ca.crt", f"--cluster-signing-cert-file={PKI}/ca.crt",
                    f"--cluster-signing-key-file={PKI}/ca.key", "--allocate-node-cidrs=false",
                    f"--service-cluster-ip-range={SERVICES}", "--node-monitor-period=2s", "--node-monitor-grace-period=20s"]
        program(name, f"--kubeconfig={config}", f"--authentication-kubeconfig={config}",
                f"--authorization-kubeconfig={config}", "--bind-address=127.0.0.1", "--leader-elect=false", *more)


def start_api_server(*more):
    """Also after it was stopped: all that it knows is in etcd. `more` are further flags."""
    policy = STATE / "audit.yaml"
    policy.write_text(AUDITED)
    program("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0",
            f"--advertise-address={API}", "--secure-port=6443", f"--tls-cert-file={PKI}/apiserver.crt",
            f"--tls-private-key-file={PKI}/apiserver.key", f"--client-ca-file={PKI}/ca.crt",
            f"--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={PKI}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP,Hostname", f"--service-account-issuer={ISSUER}",
            f"--service-account-signing-key-file={PKI}/sa.key", f"--service-account-key-file={PKI}/sa.pub",
            f"--api-audiences={ISSUER}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICES}", "--enable-aggregator-routing=true",
            f"--requestheader-client-ca-file={PKI}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={PKI}/front-proxy-client.crt",
            f"--proxy-client-key-file={PKI}/front-proxy-client.key", "--shutdown-delay-duration=0s",
            f"--audit-policy-file={policy}", f"--audit-log-path={AUDIT}", "--v=1", *more)
    if not wait(60, lambda: quiet(*kubectl("get", "--raw", "/readyz"))):
        fail(f"the API server is not ready: see {STATE}/kube-apiserver.log")


def program(name, *arguments):
    with open(STATE / f"{name}.log", "ab") as log:
        command = ["ip", "netns", "exec", UNDERLAY, str(BIN / name), *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (STATE / f"{name}.pid").write_text(str(process.pid))


def stop(*names):
    for name in names or PROGRAMS:
        try:
            pid = int((STATE / f"{name}.pid").read_text())
            os.kill(pid, signal.SIGTERM)
        except (OSError, ValueError):
            continue
        if not wait(5, lambda: not running(pid)):
            os.kill(pid, signal.SIGKILL)
        (STATE / f"{name}.pid").unlink()


def running(pid):
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def wait(seconds, condition):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
