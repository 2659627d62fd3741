"""Who gets a certificate of the controller that runs, and who does not: by its real service, with real tokens of the cluster."""

import base64
import json
import pathlib
import re
import tempfile
import urllib.parse

from bed import SYSTEM, Failed, alone, check, command, field, k, names, place_of, proxies_on, runs, wait
from certificates import PKI
from places import NODES

SIGN = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
DISCOVER = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
# Codes of gRPC.
OK, PERMISSION_DENIED, UNAUTHENTICATED = 0, 7, 16


def part(number, content):
    """A field of a Protocol Buffers message that is text or a message."""
    size, length = len(content), []
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


class Authority:
    """One replica of the controller, called from a node as any process there can."""

    def __init__(self, folder):
        self.replica = names(SYSTEM, "app.kubernetes.io/name=aquifer-controller")[0]
        self.address = field(SYSTEM, self.replica, ".status.podIP")
        self.folder = pathlib.Path(folder)
        request = self.folder / "request.pem"
        command("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/",
                "-keyout", self.folder / "key.pem", "-out", request)
        self.request = request.read_bytes()

    def call(self, token, path, message=b""):
        """Code, words and content of an answer."""
        head, answer, body = (self.folder / name for name in ("head", "answer", "body"))
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        # It names itself by its identity, which is no host's name; who it is does not matter here.
        line = NODES[0].enter("curl", "-sS", "--http2", "--insecure", "--max-time", "20", "-X", "POST", "-H", "content-type: application/grpc",
                              "-H", "te: trailers", "-H", f"authorization: Bearer {token}", "-D", head, "-o", answer, f"https://{self.address}:15012{path}")
        # To curl an answer that comes before the message was sent is none. Then it is asked without one: who was let through hears of that.
        for content in (["--data-binary", f"@{body}"], []):
            for file in (head, answer):
                file.write_bytes(b"")
            done = command(*line, *content, ok=False)
            said = {name: value for name, value in re.findall(r"^(grpc-\w+): *(.*?)\r?$", head.read_text(), re.M)}
            if "grpc-status" in said:
                return int(said["grpc-status"]), urllib.parse.unquote(said.get("grpc-message", "")), answer.read_bytes()
        raise Failed(f"{self.address} does not answer: {done.stderr}")

    def sign(self, token, account):
        """Asks for the certificate of a service account of the shop."""
        identity = f"spiffe://cluster.local/ns/shop/sa/{account}".encode()
        entry = part(1, b"ImpersonatedIdentity") + part(2, part(3, identity))
        return self.call(token, SIGN, part(1, self.request) + part(4, part(1, entry)))

    def refusals(self):
        """How many calls and requests it has refused, by its metrics."""
        page = command(*NODES[0].enter("curl", "-sS", f"http://{self.address}:15020/metrics")).stdout
        found = re.findall(r"^aquifer_(?:controller_refusals|certificate_failures)_total\S* (\d+)", page, re.M)
        return sum(map(int, found))

    def log(self):
        return k("-n", SYSTEM, "logs", self.replica).splitlines()


def mounted(node, pod, volume, namespace=SYSTEM):
    """The token that kubelet gave to a pod."""
    uid = field(namespace, pod, ".metadata.uid")
    return command(*node.enter("bash", "-c", f"cat /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/{volume}/token")).stdout.strip()


def made(account, pod, audience, namespace):
    """A token that the API server makes for a pod."""
    return k("-n", namespace, "create", "token", account, "--bound-object-kind=Pod", f"--bound-object-name={pod}", f"--audience={audience}").strip()


def expired(token):
    """The same token as the API server would have made it two hours ago."""
    head, claims, _ = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(claims + "=="))
    claims |= {name: claims[name] - 2 * 3600 for name in ("exp", "iat", "nbf")}
    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    with tempfile.NamedTemporaryFile() as text, tempfile.NamedTemporaryFile() as signature:
        signed = f"{head}.{encode(json.dumps(claims).encode())}"
        text.write(signed.encode())
        text.flush()
        command("openssl", "dgst", "-sha256", "-sign", PKI / "sa.key", "-out", signature.name, text.name)
        return f"{signed}.{encode(signature.read())}"


def tokens(mesh):
    """A node proxy gets certificates for pods of its node, by its own token. Any other token, and any other identity, is refused with the
    reason in the controller's log, and counted; where a node asks for what is not its own, its Node has an event."""
    client = names("shop", "app=client")[0]
    near = place_of(client)
    far = next(node for node in NODES if node is not near)
    [proxy], [other] = proxies_on(near), proxies_on(far)
    own, foreign = mounted(near, proxy, "token"), mounted(far, other, "token")
    alone("gone", "true", node=near.name)
    wait("a pod that is about to go", lambda: runs("gone"))
    left = made("default", "gone", "aquifer-ca", "shop")
    k("-n", "shop", "delete", "pod", "gone", "--now")

    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(folder)
        code, words, answer = authority.sign(own, "client")
        check(code == OK and b"BEGIN CERTIFICATE" in answer, f"a node's own token: {code} {words}")
        leaf = answer[answer.index(b"-----BEGIN"):].decode(errors="replace").split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
        whose = command("openssl", "x509", "-noout", "-ext", "subjectAltName", stdin=leaf).stdout
        check("URI:spiffe://cluster.local/ns/shop/sa/client" in whose, f"the certificate is for {whose}")

        refused = [
            ("another node's proxy", foreign, "client", PERMISSION_DENIED, f"no pod on node {far.name} runs as"),
            ("a pod that is no node proxy", made("client", client, "aquifer-ca", "shop"), "default", PERMISSION_DENIED,
             "shop/client is no node proxy and may have its own identity only"),
            ("a token for another audience", made("aquifer-node", proxy, "elsewhere", SYSTEM), "client", UNAUTHENTICATED, "does not know the token"),
            ("the token for the API server", mounted(near, proxy, "kube-api-access-*"), "client", UNAUTHENTICATED, "does not know the token"),
            ("an expired token", expired(own), "client", UNAUTHENTICATED, "token has expired"),
            ("the token of a pod that is gone", left, "default", UNAUTHENTICATED, "does not know the token"),
            ("garbage", "x.y.z", "client", UNAUTHENTICATED, "does not know the token"),
            ("no token", "", "client", UNAUTHENTICATED, "token"),
        ]
        before = authority.refusals()
        for what, token, account, wanted, why in refused:
            code, words, answer = authority.sign(token, account)
            check((code, answer) == (wanted, b"") and why in words, f"{what}: {code} {words}")
            logged = words.replace('"', '\\"')
            wait(f"the reason in the controller's log: {what}", lambda logged=logged: any("refused" in line and logged in line for line in authority.log()))
        code, words, _ = authority.call(made("client", client, "aquifer-ca", "shop"), DISCOVER)
        check(code == PERMISSION_DENIED and "is told nothing of the mesh" in words, f"a pod that asks for the mesh: {code} {words}")
        counted = authority.refusals() - before
        check(counted >= len(refused) + 1, f"{counted} of {len(refused) + 1} refusals are counted")

    event = lambda: k("get", "events", "--field-selector", f"reason=IdentityRefused,involvedObject.name={far.name}", "-o", "jsonpath={.items[*].message}")
    wait("an event at the Node whose proxy asked", lambda: f"{SYSTEM}/{other} asked for an identity that it may not have" in event())
    print(f"  a node's own token got a certificate; {len(refused) + 1} others were refused")
