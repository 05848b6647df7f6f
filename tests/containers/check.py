"""The cpu image in containers, for real: built whole; compose under TLS with containers killed; two
hosts; the pods of Kubernetes. Each ends with the same bits as one node on this host.

    ./dev test-containers [compose|hosts|pods]...    root on a Debian with docker.io, docker-compose
                                                     and podman; no registry
"""
import argparse
import json
import pathlib
import re
import sys
import tempfile
import time

import compose
import hosts
import pods
from engine import IMAGE, ROOT, Engine, build_image, make_base, run, say

MAX_IMAGE_BYTES = 250 << 20
PARTS = ("compose", "hosts", "pods")
COMPILERS = ("g++", "gcc", "cc", "clang", "cmake", "make", "ld", "nvcc", "thrift")
CLIENTS = ("curl", "wget", "pip", "git")
# Scripts that call a client, were it there; apt's own is Debian's.
SCRIPTS = (r"grep -rlE '^#!' /usr/bin /usr/sbin /usr/local /output /run /tmp 2>/dev/null | "
           r"grep -v /apt-key$ | xargs grep -lE '\b(curl|wget)\b'")


def check_image(engine):
    """Small, no compiler, not root, no secret among its layers."""
    image = json.loads(engine.docker("image", "inspect", IMAGE))[0]
    say(f"the image has {image['Size'] / 1e6:.0f} MB, user {image['Config']['User']}")
    assert image["Size"] <= MAX_IMAGE_BYTES, image["Size"]
    assert image["Config"]["User"] == "65532:65532"

    def inside(script):
        return run(engine.client, "run", "--rm", "--entrypoint", "/bin/sh", IMAGE, "-c", script,
                   check=False).stdout
    found = inside("; ".join(f"command -v {tool}" for tool in COMPILERS + CLIENTS))
    assert not found, f"in the image: {found}"
    assert not inside(SCRIPTS), f"scripts that download: {inside(SCRIPTS)}"
    labels = image["Config"]["Labels"]
    for name in ("version", "revision"):
        assert re.match("[0-9a-f.]{5,40}$", labels[f"org.opencontainers.image.{name}"]), labels
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    assert "PRIVATE KEY" not in history and "password" not in history.lower()


def train_here(program, folder, job):
    """One node without containers: the last line, which has the hash."""
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    done = run(program, "train", "--job", path, "--nodes", "1", "--output", folder / "reference")
    return done.stdout.strip().splitlines()[-1]


def check_part(part, engine, program, storage):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if part == "compose":
            job, got = compose.train_in_containers(engine, folder)
        elif part == "hosts":
            job, got = hosts.train_on_two_hosts(engine, program, folder)
        elif pods.missing():
            say(f"skipped: {pods.missing()}")
            return
        else:
            job, got = pods.train_in_pods(engine, IMAGE, program, folder, storage / "podman")
        say(f"{part}: {got}")
        expected = train_here(program, folder, job)
        if got != expected:
            raise SystemExit(f"other bits than one node here: {expected}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), metavar="PART")  # [] where none
    parser.add_argument("--lockstep", required=True)
    parser.add_argument("--folder", default=ROOT / "build" / "containers", type=pathlib.Path)
    options = parser.parse_args()
    begin = time.monotonic()
    program = pathlib.Path(options.lockstep).resolve()
    with Engine(options.folder / "engine") as engine:
        make_base(engine, options.folder)
        build_image()
        check_image(engine)
        for part in options.parts or PARTS:
            check_part(part, engine, program, options.folder)
    say(f"all the same bits; {time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    sys.exit(main())
