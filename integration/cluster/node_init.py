"""The first process of a node: its mounts, then its container runtime, kubelet and kube-proxy. When one of them ends, so does the node."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

NAME, ADDRESS, PODS, TAINTS = (os.environ[f"NODE_{key}"] for key in ("NAME", "ADDRESS", "PODS", "TAINTS"))
DISK, BIN, PKI = (pathlib.Path(os.environ[f"NODE_{key}"]) for key in ("DIR", "BIN", "PKI"))
CONTROLLERS = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"]
# What the node keeps on its own disk; the machine's own folders are hidden behind it.
KEPT = ["etc/cni/net.d", "etc/containerd", "etc/kubernetes", "var/lib/containerd", "var/lib/kubelet", "var/lib/cni",
        "var/log/pods", "var/log/containers", "opt/cni/bin"]


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def mounts():
    run("mount", "--make-rslave", "/")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/sys/fs/cgroup")
    for name in CONTROLLERS + ["systemd"]:
        folder = f"/sys/fs/cgroup/{name}"
        os.mkdir(folder)
        run("mount", "-t", "cgroup", "-o", "none,name=systemd" if name == "systemd" else name, "cgroup", folder)
    # /run is of this boot only, as on a machine.
    shutil.rmtree(DISK / "run", ignore_errors=True)
    for path in ["run"] + KEPT:
        (DISK / path).mkdir(parents=True, exist_ok=True)
        os.makedirs(f"/{path}", exist_ok=True)
        run("mount", "--bind", DISK / path, f"/{path}")
    os.makedirs("/run/netns")
    os.makedirs("/run/lock")
    # Volumes and pods' namespaces are seen in containers.
    run("mount", "--make-rshared", "/")
    # Kubelet would set these for the whole machine: it finds them as it wants them.
    wanted = {"vm/overcommit_memory": 1, "vm/panic_on_oom": 0, "kernel/panic": 10, "kernel/panic_on_oops": 1,
              "kernel/keys/root_maxkeys": 1000000, "kernel/keys/root_maxbytes": 25000000}
    os.makedirs("/run/sysctl")
    for name, value in wanted.items():
        file = pathlib.Path("/run/sysctl") / name.replace("/", "_")
        file.write_text(f"{value}\n")
        run("mount", "--bind", file, f"/proc/sys/{name}")


def start(name, *command):
    with open(f"/run/{name}.log", "ab") as log:
        return subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)


def runtime():
    shutil.copytree("/usr/lib/cni", "/opt/cni/bin", dirs_exist_ok=True)
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "isDefaultGateway": True, "hairpinMode": True, "mtu": 1450,
              "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]]}}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap]}
    conflist = pathlib.Path("/etc/cni/net.d/10-pods.conflist")
    # What another agent put in stays over a reboot, as on a machine.
    if not conflist.exists():
        conflist.write_text(json.dumps(network, indent=2))
    pathlib.Path("/etc/containerd/config.toml").write_text("""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE runc cannot lower oom_score_adj, and no sandbox would start.
  restrict_oom_score_adj = true
""")
    process = start("containerd", "containerd", "-c", "/etc/containerd/config.toml")
    for _ in range(200):
        if subprocess.run(["ctr", "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            break
        time.sleep(0.05)
    for image in os.environ["NODE_IMAGES"].split():
        run("ctr", "-n", "k8s.io", "images", "import", image)
    return process


def agents():
    for source, target in (("ca.crt", "ca.crt"), (f"node-{NAME}.conf", "kubelet.conf"), ("kube-proxy.conf", "kube-proxy.conf")):
        shutil.copy(PKI / source, pathlib.Path("/etc/kubernetes") / target)
    pathlib.Path("/etc/kubernetes/resolv.conf").write_text("nameserver 10.96.0.10\n")
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"}},
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/",
        "failCgroupV1": False,
        "enforceNodeAllocatable": ["pods"],
        "localStorageCapacityIsolation": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        "makeIPTablesUtilChains": False,
        "resolvConf": "/etc/kubernetes/resolv.conf",
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "4s",
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.conf"},
        "hostnameOverride": NAME,
        "clusterCIDR": "10.244.0.0/16",
        "detectLocalMode": "ClusterCIDR",
        "oomScoreAdj": 0,
        # These are the whole machine's: left alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nodePortAddresses": ["primary"],
    }
    for name, config in (("kubelet", kubelet), ("kube-proxy", proxy)):
        pathlib.Path(f"/etc/kubernetes/{name}.json").write_text(json.dumps(config))
    yield start("kubelet", BIN / "kubelet", "--config=/etc/kubernetes/kubelet.json", "--kubeconfig=/etc/kubernetes/kubelet.conf",
                f"--hostname-override={NAME}", f"--node-ip={ADDRESS}", f"--node-labels=topology.kubernetes.io/zone=z-{NAME}",
                *([f"--register-with-taints={TAINTS}"] if TAINTS else []))
    yield start("kube-proxy", BIN / "kube-proxy", "--config=/etc/kubernetes/kube-proxy.json")


def main():
    run("hostname", NAME)
    mounts()
    run("ip", "link", "set", "lo", "up")
    pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    children = {runtime().pid}
    children |= {process.pid for process in agents()}
    # Orphans of the whole node end up here and are waited for, too.
    while os.wait()[0] not in children:
        pass


main()
