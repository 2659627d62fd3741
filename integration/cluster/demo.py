"""What README says of a cluster, command by command."""

import os
import re
import subprocess
import time

import nodes
from places import BIN, ROOT, STATE, UNDERLAY
from bed import DEADLINE, Failed, check, k, wait

DAY = 24 * 3600
# What is seen of commands of README, by how they begin; the last of these that fits counts. A command that is not here must only succeed.
SEEN = {
    "kubectl -n shop logs": r"\d\d:\d\d:\d\d \w+ today, says catalog-\S+; order \d+ taken",
    "kubectl -n street logs": r"\d\d:\d\d:\d\d order \d+ taken",
    "aquifer status": r"customer-(.|\n)*storefront-",
    "aquifer flows -n shop": r"storefront.*(catalog|orders)",
    "aquifer flows -n shop --verdict denied": r"passer-by.*orders",
}
# Once policies are applied.
SEEN_THEN = SEEN | {"kubectl -n street logs": r"\d\d:\d\d:\d\d turned away\s*$"}


def section(title):
    """The commands in a section of README, without their remarks."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#)", text, re.M | re.S)
    check(found, f"README has no section {title}")
    lines = [line.strip() for line in found[1].splitlines() if line.startswith("    ")]
    return [re.split(r"\s+#", line)[0] for line in lines]


class Shell:
    """Runs command lines as README's reader does: with `aquifer` and `kubectl` at hand, in this repository."""

    def __init__(self, mesh):
        programs = STATE / "programs"
        programs.mkdir(exist_ok=True)
        for name, program in (("aquifer", mesh.program), ("kubectl", BIN / "kubectl")):
            (programs / name).unlink(missing_ok=True)
            os.symlink(program, programs / name)
        self.environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "KUBECONFIG": f"{STATE}/pki/admin.conf"}

    def start(self, line):
        command = ["ip", "netns", "exec", UNDERLAY, "bash", "-o", "pipefail", "-c", line]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, line):
        with self.start(line) as process:
            said = process.communicate(timeout=2 * DEADLINE)[0]
        if process.returncode != 0:
            raise Failed(f"{line}: exit status {process.returncode}\n{said}")
        return said

    def follow(self, line, pattern):
        """Runs a command that does not end until a line of it fits."""
        with self.start(f"timeout {DEADLINE} {line}") as process:
            said = []
            for each in process.stdout:
                said.append(each)
                if re.search(pattern, each):
                    process.terminate()
                    return
        raise Failed(f"{line}: no line fits {pattern}:\n{''.join(said[-20:])}")


def is_since(line, when):
    """Whether a line of a log, which begins with the time of day, was written after a moment."""
    hours, minutes, seconds = map(int, line.split()[0].split(":"))
    return (hours * 3600 + minutes * 60 + seconds - when) % DAY < DAY / 2


def walk(shell, lines, seen):
    """Runs commands one after another, each with what is to be seen of it. What a log says counts from the last change on."""
    changed = 0
    for line in lines:
        fitting = [pattern for begin, pattern in seen.items() if line.startswith(begin)]

        def is_seen():
            said = shell.run(line)
            if " logs " not in line:
                return re.search(fitting[-1], said)
            told = said.splitlines()
            return told and all(is_since(each, changed) and re.search(fitting[-1], each) for each in told)

        if line.startswith("aquifer flows"):
            shell.follow(line, fitting[-1])
        elif fitting:
            wait(f"{line} to say {fitting[-1]}", is_seen)
        else:
            shell.run(line)
            # A call that was under way is told in the next second.
            changed = time.time() + 2


def demo(mesh):
    """README's commands do on a cluster what README says: install, the demo's walk, uninstall."""
    k("delete", "namespace", "shop", "--ignore-not-found")
    shell = Shell(mesh)
    mesh_lines, shop_lines = section("On Kubernetes"), section("A shop to try it on")
    label = next(line for line in mesh_lines if line.startswith("kubectl label"))
    begin = mesh_lines[: mesh_lines.index(label)]
    check(set(mesh_lines[mesh_lines.index(label):][:3]) <= set(shop_lines), "the shop's walk does not have all steps of an installation")
    end = next(line for line in mesh_lines if line.startswith("aquifer uninstall"))
    image, *shop_lines = shop_lines
    shell.run(image)
    nodes.load(ROOT / "target/demo.tar")
    policies = next(line for line in shop_lines if line.startswith("kubectl apply -f"))
    cut = shop_lines.index(policies)
    walk(shell, begin + shop_lines[:cut], SEEN)
    walk(shell, shop_lines[cut:] + [end], SEEN_THEN)
    left = k("get", "namespaces,clusterroles,clusterrolebindings,customresourcedefinitions", "-o", "name")
    check(not re.search("aquifer|/shop|/street", left), f"left behind: {left}")
