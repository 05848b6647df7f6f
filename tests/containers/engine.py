"""Docker for the tests of docker/: a daemon, a base without a registry, the cpu image."""
import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = "debian:bookworm-slim"
IMAGE = "lockstep:cpu"


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


def build_image():
    """The cpu image whole; what was compiled before is in BuildKit's cache."""
    say("building the image")
    begin = time.monotonic()
    run(ROOT / "dev", "images", "cpu")
    say(f"built in {time.monotonic() - begin:.0f} s")
