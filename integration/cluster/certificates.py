"""The cluster's keys: one authority, the API server's certificate, and a kubeconfig for each client."""

import base64
import json

from places import API, KUBERNETES, NODES, STATE, run, subprocess

PKI = STATE / "pki"


def make():
    PKI.mkdir(parents=True)
    for name in ("ca", "front-proxy-ca"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", f"/CN={name}",
                "-keyout", PKI / f"{name}.key", "-out", PKI / f"{name}.crt",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    names = ["localhost"] + ["kubernetes" + suffix for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    addresses = [API, KUBERNETES, "127.0.0.1"]
    alternatives = ",".join([f"IP:{address}" for address in addresses] + [f"DNS:{name}" for name in names])
    certificate("apiserver", "/CN=kube-apiserver", f"extendedKeyUsage=serverAuth\nsubjectAltName={alternatives}")
    certificate("front-proxy-client", "/CN=front-proxy-client", "extendedKeyUsage=clientAuth", "front-proxy-ca")
    client("admin", "/O=system:masters/CN=admin")
    client("apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        client(name, f"/CN=system:{name}")
    for node in NODES:
        client(f"node-{node.name}", f"/O=system:nodes/CN=system:node:{node.name}")
    openssl("genrsa", "-out", PKI / "sa.key", "2048")
    openssl("rsa", "-in", PKI / "sa.key", "-pubout", "-out", PKI / "sa.pub")
    for key in PKI.glob("*.key"):
        key.chmod(0o600)


def openssl(*arguments):
    run("openssl", *arguments, stderr=subprocess.DEVNULL)


def certificate(name, subject, usage, authority="ca"):
    request, extensions = PKI / f"{name}.csr", PKI / f"{name}.ext"
    extensions.write_text(f"keyUsage=critical,digitalSignature,keyEncipherment\n{usage}\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", PKI / f"{name}.key", "-out", request, "-subj", subject)
    openssl("x509", "-req", "-in", request, "-CA", PKI / f"{authority}.crt", "-CAkey", PKI / f"{authority}.key",
            "-CAcreateserial", "-days", "365", "-extfile", extensions, "-out", PKI / f"{name}.crt")
    request.unlink()
    extensions.unlink()


def client(name, subject):
    certificate(name, subject, "extendedKeyUsage=clientAuth")
    data = lambda file: base64.b64encode((PKI / file).read_bytes()).decode()
    cluster = {"server": f"https://{API}:6443", "certificate-authority-data": data("ca.crt")}
    user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    (PKI / f"{name}.conf").write_text(json.dumps(config))
