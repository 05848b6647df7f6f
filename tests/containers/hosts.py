"""Two hosts: two networks that Docker keeps apart; the address of a network's bridge is its host's.
Processes of one reach those of the other only at the ports that the host opens, as the commands of
docker/README.md do."""
import json
import os
import pathlib
import urllib.request

from engine import IMAGE, run, say, wait_until

NAMES = ("lockstep-host-a", "lockstep-host-b")
JOB = {"model": "seed-cnn", "data": "digits:3000", "epochs": 4, "batch_size": 64}


class Host:
    """A network; `address` stands for the host's own in the network between hosts."""

    def __init__(self, engine, name):
        self.engine = engine
        self.name = name
        engine.docker("network", "create", name)
        network = json.loads(engine.docker("network", "inspect", name))[0]
        self.address = network["IPAM"]["Config"][0]["Gateway"]

    def start(self, name, ports, volumes, *arguments, options=()):
        """A container of the image whose ports are the host's."""
        mounts = [part for source, target in volumes.items()
                  for part in ("-v", f"{source}:{target}")]
        opened = [part for port in ports for part in ("-p", f"{self.address}:{port}:{port}")]
        self.engine.docker("run", "-d", "--name", f"{self.name}-{name}", "--network", self.name,
                           "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", *opened, *mounts,
                           *options, IMAGE, *arguments)
        return f"{self.name}-{name}"


def hand_out(program, folder):
    """Certificates of a job for the containers' user, who alone can read the keys."""
    run(program, "certs", "--output", folder, "--job-name", "hosts")
    for role in ("coordinator", "node"):
        for path in [folder / role, *(folder / role).iterdir()]:
            os.chown(path, 65532, 65532)


def remove_all(engine):
    for name in NAMES:
        found = engine.docker("ps", "-aq", "--filter", f"name={name}").split()
        if found:
            engine.docker("rm", "-f", "-v", *found)
        run(engine.client, "network", "rm", name, check=False)
    run(engine.client, "volume", "rm", "lockstep-host-state", "lockstep-host-output", check=False)


def state_of(engine, container):
    return json.loads(engine.docker("inspect", container))[0]["State"]


def start_node(host, coordinator, certificates):
    return host.start(
        "node", [7071, 9464], {certificates / "node": "/certificates:ro"}, "node", "--coordinator",
        f"{coordinator}:7070", "--listen", "0.0.0.0:7071", "--advertise", f"{host.address}:7071",
        "--tls", "/certificates", "--connect-timeout", "120")


def check_apart(engine, here, there):
    """From one host no container of the other answers at its own address, only at the host's."""
    networks = json.loads(engine.docker("inspect", there))[0]["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    done = run(engine.client, "run", "--rm", "--network", here.name, IMAGE, "status",
               f"{address}:7070", check=False)
    assert done.returncode != 0 and "no answer" in done.stderr, done.stdout + done.stderr


def sent_bytes(host):
    """What the node of that host sent to the others over the network."""
    with urllib.request.urlopen(f"http://{host.address}:9464/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(line.split()[-1]) for line in lines
               if line.startswith("lockstep_node_tensor_bytes_total") and 'direction="sent"' in line
               and 'path="network"' in line)


def train_on_two_hosts(engine, program, folder):
    """(job, the hash of its end)."""
    certificates = pathlib.Path(folder) / "host-certificates"
    hand_out(program, certificates)
    remove_all(engine)
    try:
        one, other = (Host(engine, name) for name in NAMES)
        job = folder / "job.env"
        job.write_text("".join(f"LOCKSTEP_{key.upper()}={value}\n" for key, value in
                               {**JOB, "nodes": 2}.items()))
        say(f"two hosts, {one.address} and {other.address}")
        coordinator = one.start(
            "coordinator", [7070],
            {certificates / "coordinator": "/certificates:ro", "lockstep-host-state": "/state",
             "lockstep-host-output": "/output"},
            "coordinator", "--listen", "0.0.0.0:7070", "--tls", "/certificates", "--state",
            "/state", "--output", "/output/run", options=["--env-file", job])
        check_apart(engine, other, coordinator)
        nodes = [start_node(host, one.address, certificates) for host in (one, other)]

        def status():
            """As an operator of another machine sees it."""
            assert state_of(engine, coordinator)["Running"], logs(engine, coordinator)
            done = run(program, "status", f"{one.address}:7070", "--tls",
                       certificates / "operator", "--json", check=False)
            return json.loads(done.stdout) if done.returncode == 0 else {}
        wait_until(lambda: status().get("step", 0) >= 40, "40 steps on two hosts", 120)
        found = {each["address"] for each in status()["members"]}
        assert found == {f"{host.address}:7071" for host in (one, other)}, found
        assert sent_bytes(other) > 1 << 20
        for container in (coordinator, *nodes):
            wait_until(lambda each=container: not state_of(engine, each)["Running"],
                       f"the end of {container}", 600)
            assert state_of(engine, container)["ExitCode"] == 0, logs(engine, container)
        return JOB, engine.docker("logs", coordinator).splitlines()[-1]
    finally:
        remove_all(engine)


def logs(engine, container):
    done = run(engine.client, "logs", container, check=False)
    return done.stdout + done.stderr
