"""The Gateway API's own conformance suite, as it is, in namespaces of the mesh."""

import json
import os
import subprocess

import build
import nodes
from places import BIN, ROOT, STATE, UNDERLAY, run
from bed import DEADLINE, check, command, k, names, needs, records, wait

SPACE = "gateway-conformance-mesh"
# The suite's set-up waits for a pod in each of these, and makes neither.
IDLE = ("gateway-conformance-app-backend", "gateway-conformance-web-backend")
# The name that the suite's manifests have for its application.
ECHO = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1"
# Of the suite's mesh tests MeshBasic alone asks for nothing but a mesh; all others ask for routes. Those that ask for more than this
# skip themselves.
SUPPORTED = "Mesh"


def echo_image():
    """The application of the suite's mesh tests, with a certificate of its own."""
    folder = STATE / "echo"
    folder.mkdir(exist_ok=True)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "cert.key", "-out", folder / "cert.crt", "-days", "365",
        "-subj", "/CN=echo", "-addext", "subjectAltName=DNS:echo", stderr=subprocess.DEVNULL)
    files = [f"{BIN}/echo/{name}=/usr/local/bin/{name}" for name in ("client", "server")] + [f"{folder}/{name}=/{name}" for name in ("cert.key", "cert.crt")]
    run("python3", ROOT / "deploy/image.py", folder / "echo.tar", ECHO, "/usr/local/bin/server", *files, stdout=subprocess.DEVNULL)
    return folder / "echo.tar"


def idle(namespace):
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    container = {"name": "idle", "image": "localhost/busybox:1", "imagePullPolicy": "IfNotPresent", "command": ["/bin/sleep", "1000000"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "idle", "namespace": namespace},
           "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}
    return [space, pod]


def conformance(mesh):
    """What the Gateway API's suite asks of a mesh without routes (MeshBasic) passes, and its calls went through the mesh."""
    needs("conformance.test", "echo/client", "gateway-api")
    nodes.load(echo_image())
    k("apply", "--server-side", "-f", build.GATEWAY_API)
    k("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [each for space in IDLE for each in idle(space)]}))
    try:
        report = suite()
        told = [line for line in report.splitlines() if "--- SKIP" not in line and not line.startswith("===")]
        passed = [line.split()[2] for line in told if line.lstrip().startswith("--- PASS: ")]
        check({"TestConformance", "TestConformance/MeshBasic"} <= set(passed), "the suite did not pass:\n" + "\n".join(told[-60:]))
        pods = names(SPACE, "app=echo")
        check(len(mesh.in_mesh(SPACE)) == len(pods) == 2, f"of {pods} in the mesh are {mesh.in_mesh(SPACE)}")
        client = names(SPACE, "app=echo,version=v1")[0]
        carried = lambda: [line for line in records(client) if "by tunnel with mutual TLS" in line or "by same-node" in line]
        wait("a record of the suite's call", carried)
    finally:
        k("delete", "namespace", SPACE, f"{SPACE}-consumer", *IDLE, "--ignore-not-found", f"--timeout={DEADLINE}s")
        k("delete", "--ignore-not-found", "-f", build.GATEWAY_API)


def suite():
    """Runs the suite, and gives all that it said."""
    flags = [f"-supported-features={SUPPORTED}", "-mesh-name=aquifer", "-namespace-labels=aquifer.dev/mesh=ambient", "-cleanup-base-resources=false"]
    program = [BIN / "conformance.test", "-test.v", "-test.run=^TestConformance$", f"-test.timeout={2 * DEADLINE}s", *flags]
    environment = [f"{name}={value}" for name, value in {"KUBECONFIG": STATE / "pki/admin.conf", "PATH": os.environ["PATH"]}.items()]
    done = command("ip", "netns", "exec", UNDERLAY, "env", *environment, *program, ok=False)
    return done.stdout + done.stderr
