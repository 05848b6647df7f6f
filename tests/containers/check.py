"""The cpu image in containers, for real: compose with three nodes under TLS, a node's and the
coordinator's container killed in the middle, a fourth node, the same bits as one node on this host.

    ./dev test-containers        root on a Debian with docker.io and docker-compose; no registry
"""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = "debian:bookworm-slim"
IMAGE = "lockstep:test"
PROJECT = "lockstep-test"
JOB = {"MODEL": "seed-cnn", "DATA": "digits:3000", "EPOCHS": "12", "BATCH_SIZE": "64",
       "SEED": "3"}
MAX_IMAGE_BYTES = 250 << 20
STATUS = ["/usr/local/bin/lockstep", "status", "127.0.0.1:7070", "--tls", "/certificates/operator",
          "--json"]


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run(*command, check=True, **options):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True,
                          check=False, **options)
    if check and done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


class Engine:
    """Docker: the daemon that runs, or one of our own for as long as this lasts."""

    def __init__(self, folder):
        self.folder = folder
        # Debian's client: another one may stand earlier on the PATH, and be too new for the daemon.
        self.client = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"
        self.daemon = None

    def __enter__(self):
        if run(self.client, "info", check=False).returncode != 0:
            self.start_daemon()
        return self

    def start_daemon(self):
        say("starting a Docker daemon")
        self.folder.mkdir(parents=True, exist_ok=True)
        socket = f"unix://{self.folder}/socket"
        os.environ["DOCKER_HOST"] = socket
        with open(self.folder / "log", "w", encoding="utf-8") as log:
            self.daemon = subprocess.Popen(
                ["dockerd", "--data-root", self.folder / "data", "--exec-root",
                 self.folder / "exec", "-p", self.folder / "pid", "-H", socket],
                stdout=log, stderr=log)
        wait_until(lambda: run(self.client, "info", check=False).returncode == 0,
                   f"a daemon: see {self.folder}/log", 30)

    def __exit__(self, *_):
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(60)

    def docker(self, *arguments, **options):
        return run(self.client, *arguments, **options).stdout.strip()

    def build(self, *arguments, context):
        # Debian's Docker has the classic builder, and so no cache of a compiler.
        self.docker("build", *arguments, context,
                    env={**os.environ, "DOCKER_BUILDKIT": "0"})


def wait_until(condition, what, timeout):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {timeout} s: {what}")
        time.sleep(0.2)


def make_base(engine, folder):
    """Debian 12 without a registry."""
    if run(engine.client, "image", "inspect", BASE, check=False).returncode == 0:
        return
    say("making the base image with debootstrap")
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", "bookworm", root)
    for lists in ("var/lib/apt/lists", "var/cache/apt/archives"):
        shutil.rmtree(root / lists, ignore_errors=True)
    subprocess.run(f"tar -C '{root}' -c . | '{engine.client}' import - {BASE}", shell=True,
                   check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


def build_image(engine, folder, program):
    say("building the image")
    engine.build("--network", "host", "--target", "runtime", "-t", "lockstep:runtime", "-f",
                 ROOT / "docker" / "Dockerfile", context=ROOT)
    context = folder / "image"
    context.mkdir(parents=True, exist_ok=True)
    run("strip", "-o", context / "lockstep", program)
    engine.build("-t", IMAGE, "-f", ROOT / "docker" / "Dockerfile.prebuilt", context=context)


def check_image(engine):
    """Small, no compiler, not root, no secret among its layers."""
    image = json.loads(engine.docker("image", "inspect", IMAGE))[0]
    say(f"the image has {image['Size'] / 1e6:.0f} MB, user {image['Config']['User']}")
    assert image["Size"] <= MAX_IMAGE_BYTES, image["Size"]
    assert image["Config"]["User"] == "65532:65532"
    for tool in ("g++", "cc", "cmake", "thrift", "curl", "wget"):
        found = run(engine.client, "run", "--rm", "--entrypoint", "/bin/sh", IMAGE, "-c",
                    f"command -v {tool}", check=False)
        assert found.returncode != 0, f"{tool} is in the image: {found.stdout}"
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    assert "PRIVATE KEY" not in history and "password" not in history.lower()


class Cluster:
    """The compose project, from a copy of docker/ with a job of its own."""

    def __init__(self, engine, folder):
        self.engine = engine
        self.folder = folder
        shutil.copy(ROOT / "docker" / "compose.yaml", folder)
        (folder / "data").mkdir()
        lines = [f"LOCKSTEP_{key}={value}" for key, value in JOB.items()]
        lines += ["LOCKSTEP_NODES=1:8", "LOCKSTEP_CHECKPOINT_EVERY=50steps"]
        (folder / "job.env").write_text("\n".join(lines) + "\n")
        self.environment = {**os.environ, "LOCKSTEP_IMAGE": IMAGE}

    def compose(self, *arguments, check=True):
        program = ["docker-compose"] if shutil.which("docker-compose") else \
            [self.engine.client, "compose"]
        return run(*program, "-p", PROJECT, "-f", self.folder / "compose.yaml",
                   "--project-directory", self.folder, *arguments, check=check,
                   env=self.environment)

    def containers(self, service):
        return self.compose("ps", "-q", service).stdout.split()

    def status(self):
        done = self.compose("exec", "-T", "coordinator", *STATUS, check=False)
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def wait_for_step(self, step):
        def there():
            return self.status().get("step", -1) >= step or self.ended()
        wait_until(there, f"step {step}:\n{self.logs()}", 240)
        assert not self.ended(), f"ended before step {step}"

    def ended(self):
        return self.state("coordinator")["Status"] == "exited"

    def state(self, service):
        found = self.compose("ps", "-a", "-q", service, check=False).stdout.split() or \
            self.compose("ps", "-q", service).stdout.split()
        return json.loads(self.engine.docker("inspect", found[0]))[0]["State"]

    def kill(self, container):
        """As a machine's fault would: Docker did not ask for it, and starts it again."""
        pid = json.loads(self.engine.docker("inspect", container))[0]["State"]["Pid"]
        os.kill(pid, signal.SIGKILL)

    def logs(self, service="coordinator"):
        return self.compose("logs", "--no-color", service, check=False).stdout


def check_inside(engine, container):
    """From inside: nobody, no capability, nothing to write but what is for it."""
    def inside(script):
        return run(engine.client, "exec", container, "/bin/sh", "-c", script, check=False)
    status = dict(line.split(":", 1) for line in
                  inside("cat /proc/1/status").stdout.splitlines() if ":" in line)
    assert status["Uid"].split() == ["65532"] * 4, status["Uid"]
    assert int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    for path in ("/file", "/usr/local/bin/file", "/certificates/node/file"):
        assert inside(f"touch {path}").returncode != 0, f"{path} can be written"
    assert inside("touch /tmp/file").returncode == 0
    assert inside("ls /certificates/authority").stdout == "", "the authority's key is here"


def fetch(cluster):
    done = cluster.compose("exec", "-T", "coordinator", "/usr/local/bin/lockstep", "fetch",
                           "127.0.0.1:7070", "--tls", "/certificates/operator", "--output",
                           "/output/fetched")
    say(f"fetched: {done.stdout.splitlines()[0]}")


def stop_a_node(engine, cluster):
    """SIGTERM reaches the program: it hands over and says so."""
    node = cluster.containers("node")[0]
    engine.docker("stop", "-t", "30", node)
    code = json.loads(engine.docker("inspect", node))[0]["State"]["ExitCode"]
    assert code == 143, f"a node that was stopped ended with {code}"
    say("a node that was stopped handed over: exit 143")


def train_here(program, folder):
    arguments = [part for key, value in JOB.items()
                 for part in (f"--{key.lower().replace('_', '-')}", value)]
    done = run(program, "train", *arguments, "--nodes", "1", "--output", folder / "reference")
    return done.stdout.strip().splitlines()[-1]


def train_in_containers(engine, folder):
    cluster = Cluster(engine, folder)
    cluster.compose("down", "-v", check=False)
    try:
        say("compose up: a coordinator and three nodes under TLS")
        cluster.compose("up", "-d", "--scale", "node=3")
        cluster.wait_for_step(40)
        nodes = cluster.containers("node")
        assert len(nodes) == 3
        check_inside(engine, nodes[0])
        wait_until(lambda: len(cluster.status().get("members", [])) == 3, "three members", 60)
        say(f"step {cluster.status()['step']}: a node's container is killed")
        cluster.kill(nodes[1])
        cluster.wait_for_step(120)
        say(f"step {cluster.status()['step']}: the coordinator's container is killed")
        cluster.kill(cluster.containers("coordinator")[0])
        cluster.wait_for_step(180)
        say(f"step {cluster.status()['step']}: a fourth node")
        cluster.compose("up", "-d", "--no-recreate", "--scale", "node=4")
        wait_until(lambda: len(cluster.status().get("members", [])) == 4 or cluster.ended(),
                   "four members", 60)
        assert not cluster.ended(), "ended before the fourth node was there"
        fetch(cluster)
        stop_a_node(engine, cluster)
        wait_until(cluster.ended, f"the end:\n{cluster.logs()}", 300)
        log = cluster.logs()
        assert cluster.state("coordinator")["ExitCode"] == 0, log
        for fact in ("died at step", "resumed from step", "handed over"):
            assert fact in log, f"'{fact}' is not in\n{log}"
        assert "warning" not in log
        line = next(each for each in reversed(log.splitlines()) if "weights sha256" in each)
        return line[line.index("weights sha256"):].strip()
    finally:
        (folder / "coordinator.log").write_text(cluster.logs())
        cluster.compose("down", "-v", check=False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lockstep", required=True)
    parser.add_argument("--folder", default=ROOT / "build" / "containers", type=pathlib.Path)
    options = parser.parse_args()
    begin = time.monotonic()
    program = pathlib.Path(options.lockstep).resolve()
    with Engine(options.folder / "engine") as engine, contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_base(engine, options.folder)
        build_image(engine, options.folder, program)
        check_image(engine)
        expected = train_here(program, folder)
        say(f"one node here: {expected}")
        got = train_in_containers(engine, folder)
        say(f"containers:    {got}")
    if got != expected:
        raise SystemExit("other bits")
    say(f"the same bits; {time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    sys.exit(main())
