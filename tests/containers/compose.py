"""Compose: three nodes under TLS, a node's and the coordinator's container killed in the middle,
scaled to two and to four nodes; the hash at the end."""
import json
import os
import shutil
import signal

from engine import IMAGE, ROOT, run, say, wait_until

PROJECT = "lockstep-test"
JOB = {"model": "seed-cnn", "data": "digits:3000", "epochs": 16, "batch_size": 64, "seed": 3}
STATUS = ["/usr/local/bin/lockstep", "status", "127.0.0.1:7070", "--tls", "/certificates/operator",
          "--json"]


class Cluster:
    """The compose project, from a copy of docker/ with a job of its own."""

    def __init__(self, engine, folder):
        self.engine = engine
        self.folder = folder
        shutil.copy(ROOT / "docker" / "compose.yaml", folder)
        (folder / "data").mkdir()
        lines = [f"LOCKSTEP_{key.upper()}={value}" for key, value in JOB.items()]
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

    def scale(self, count):
        """To so many nodes, all of them members, while the job trains."""
        say(f"step {self.status()['step']}: scaled to {count} nodes")
        self.compose("up", "-d", "--no-recreate", "--scale", f"node={count}")
        wait_until(lambda: len(self.status().get("members", [])) == count or self.ended(),
                   f"{count} members", 60)
        assert not self.ended(), f"ended before there were {count} nodes"

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


def train_in_containers(engine, folder):
    """(job, the hash of its end)."""
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
        for count in (2, 4):
            cluster.scale(count)
        fetch(cluster)
        stop_a_node(engine, cluster)
        wait_until(cluster.ended, f"the end:\n{cluster.logs()}", 600)
        log = cluster.logs()
        assert cluster.state("coordinator")["ExitCode"] == 0, log
        for fact in ("died at step", "resumed from step", "handed over"):
            assert fact in log, f"'{fact}' is not in\n{log}"
        assert "warning" not in log
        line = next(each for each in reversed(log.splitlines()) if "weights sha256" in each)
        return JOB, line[line.index("weights sha256"):].strip()
    finally:
        (folder / "coordinator.log").write_text(cluster.logs())
        cluster.compose("down", "-v", check=False)
