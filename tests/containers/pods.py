"""The pods of docker/kubernetes, for real: what kustomize makes of the overlay `cpu`, its Jobs' pod
templates as pods of podman's `kube play`. What a cluster would do is done here by hand: the pods'
addresses and names, the Service, the secrets' files, the probes, a new pod for one that ended."""
import json
import os
import re
import signal
import urllib.error
import urllib.request

from engine import ROOT, run, say, wait_until

VENV = ROOT / "build" / "venv-support" / "bin"
TO_JSON = "import sys, json, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
NETWORK, SUBNET = "lockstep-pods", "10.89.77"
COORDINATOR = f"{SUBNET}.10"
EPOCHS = 6
# As Debian's podman needs it where there is no systemd; its own folders, so that it meets no other.
CONFIGURATION = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


def missing():
    """Why there can be no pods, or None."""
    if not (VENV / "kubectl").exists():
        return "no PyPI: kubectl is not here"
    return None


class Podman:
    """Podman with storage of its own, removed at the end."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "containers.conf"
        path.write_text(CONFIGURATION.format(folder=folder))
        self.environment = {**os.environ, "CONTAINERS_CONF": str(path)}
        self.command = ["podman", "--root", folder / "root", "--runroot", folder / "run",
                        "--tmpdir", folder / "tmp"]

    def __call__(self, *arguments, check=True, **options):
        return run(*self.command, *arguments, check=check, env=self.environment, **options)

    def load(self, engine, image):
        """Docker's image, under the name that the pods ask for."""
        archive = self.folder / "image.tar"
        engine.docker("save", "-o", archive, image)
        self("load", "-i", archive)
        archive.unlink()
        self("tag", f"localhost/{image}", "localhost/lockstep:cpu")

    def __enter__(self):
        self("network", "create", "--disable-dns", "--subnet", f"{SUBNET}.0/24", NETWORK)
        return self

    def __exit__(self, *_):
        self("pod", "rm", "-f", "-a", check=False)
        self("network", "rm", "-f", NETWORK, check=False)
        self("system", "reset", "-f", check=False)


class Pods:
    """The pods of the two Jobs."""

    def __init__(self, podman, certificates, folder):
        self.podman = podman
        self.certificates = certificates
        self.folder = folder
        done = run(VENV / "kubectl", "kustomize", ROOT / "docker/kubernetes/overlays/cpu")
        objects = json.loads(run(VENV / "python", "-c", TO_JSON, input=done.stdout).stdout)
        self.jobs = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Job"}
        self.config_map = next(each for each in objects if each["kind"] == "ConfigMap")
        self.job = json.loads(self.config_map["data"]["job.json"]) | {"epochs": EPOCHS}
        self.config_map["data"]["job.json"] = json.dumps(self.job)

    def manifest(self, job, name, address):
        """The pod of a Job's template; what only a cluster has is put in by hand."""
        template = self.jobs[job]["spec"]["template"]
        pod = json.loads(json.dumps({"apiVersion": "v1", "kind": "Pod", **template}))
        pod["metadata"]["name"] = name
        pod["spec"]["hostAliases"] = [  # the Service
            {"ip": COORDINATOR, "hostnames": ["lockstep-coordinator"]}]
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                role = volume.pop("secret")["secretName"].removeprefix("lockstep-")
                volume["hostPath"] = {"path": str(self.certificates / role), "type": "Directory"}
        for container in pod["spec"]["containers"]:
            # Podman 4 would open the ports on this host, and ask by a curl in the container.
            for key in ("ports", "readinessProbe", "livenessProbe"):
                del container[key]
            values = {}
            for variable in container.get("env", []):
                field = variable.pop("valueFrom")["fieldRef"]["fieldPath"]
                variable["value"] = {"status.podIP": address, "metadata.name": name}[field]
                values[f"$({variable['name']})"] = variable["value"]
            for key, value in values.items():
                container["args"] = [each.replace(key, value) for each in container["args"]]
        return [self.config_map, pod]

    def start(self, job, name, number):
        """Its container's name."""
        address = f"{SUBNET}.{number}"
        path = self.folder / f"{name}.yaml"
        path.write_text("\n---\n".join(map(json.dumps, self.manifest(job, name, address))))
        # Of the same hardware address: a pod that takes another's place is found at once.
        self.podman("kube", "play", "--replace", "--network", NETWORK, "--ip", address,
                    "--mac-address", f"02:00:00:00:00:{number:02x}", path)
        container = self.jobs[job]["spec"]["template"]["spec"]["containers"][0]["name"]
        return f"{name}-{container}"

    def probe(self, job, which, number):
        """Whether the pod's answer to that probe of the template is success."""
        container = self.jobs[job]["spec"]["template"]["spec"]["containers"][0]
        ask = container[which]["httpGet"]
        port = next(each["containerPort"] for each in container["ports"]
                    if each["name"] == ask["port"])
        try:
            with urllib.request.urlopen(f"http://{SUBNET}.{number}:{port}{ask['path']}",
                                        timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return False

    def state(self, container):
        return json.loads(self.podman("inspect", container).stdout)[0]["State"]

    def log(self, container):
        done = self.podman("logs", container)
        return done.stdout + done.stderr


def hand_out(program, folder):
    """The roles' folders as kubelet mounts secrets: root's, read by the pods' group (fsGroup)."""
    run(program, "certs", "--output", folder, "--job-name", "pods")
    for role in ("coordinator", "node"):
        os.chmod(folder / role, 0o750)
        os.chown(folder / role, 0, 65532)
        for path in (folder / role).iterdir():
            os.chmod(path, 0o440)
            os.chown(path, 0, 65532)


def train_in_pods(engine, image, program, folder, storage):
    """(job, the hash of its end)."""
    hand_out(program, folder / "pod-certificates")
    with Podman(storage) as podman:
        podman.load(engine, image)
        pods = Pods(podman, folder / "pod-certificates", folder)
        try:
            return pods.job, train(pods, program)
        except BaseException:
            for container in podman("ps", "-a", "--format", "{{.Names}}").stdout.split():
                print(f"{container}: {pods.log(container)}")
            raise


def train(pods, program):
    """The hash, after a drain and a death."""
    coordinator = pods.start("lockstep-coordinator", "lockstep-coordinator", 10)
    count = pods.jobs["lockstep-nodes"]["spec"]["parallelism"]
    say(f"a coordinator's pod and {count} of nodes")
    nodes = [pods.start("lockstep-nodes", f"lockstep-nodes-{index}", 20 + index)
             for index in range(count)]

    def status():
        done = run(program, "status", f"{COORDINATOR}:7070", "--tls",
                   pods.certificates / "operator", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def wait_for_step(step):
        wait_until(lambda: status().get("step", -1) >= step, f"step {step}", 240)

    def wait_for_end(container):
        wait_until(lambda: not pods.state(container)["Running"], f"the end of {container}", 600)
        return pods.state(container)["ExitCode"]
    wait_for_step(60)
    wait_until(lambda: len(status().get("members", [])) == count, "all nodes", 60)
    for job, number in (("lockstep-coordinator", 10), ("lockstep-nodes", 20)):
        assert pods.probe(job, "readinessProbe", number), job
        assert pods.probe(job, "livenessProbe", number), job
    say(f"step {status()['step']}: a node's pod is deleted, as a drain does")
    pods.podman("stop", "-t", "30", nodes[0])
    assert wait_for_end(nodes[0]) == 143
    wait_for_step(120)
    say(f"step {status()['step']}: the coordinator's pod dies; its Job would start another")
    os.kill(pods.state(coordinator)["Pid"], signal.SIGKILL)
    assert wait_for_end(coordinator) != 0
    coordinator = pods.start("lockstep-coordinator", "lockstep-coordinator", 10)
    assert wait_for_end(coordinator) == 0
    log = pods.log(coordinator)
    assert "resumed from step" in log, log
    for node in nodes[1:]:
        assert wait_for_end(node) == 0
    return re.findall(r"weights sha256: [0-9a-f]{64}", log)[-1]
