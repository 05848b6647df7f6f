"""Runs of the lockstep binary for the integration tests. Everything is bounded in time."""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MNIST = ROOT.parent / "shared" / "data" / "mnist"
LOCKSTEP = None
TIMEOUT_S = 120  # where a test says nothing else; long runs raise it


def environment(extra=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LOCKSTEP_")}
    return {**clean, **(extra or {})}


def run(*arguments, env=None, cwd=None, timeout=None, program=None):
    """The completed process; output as text."""
    return subprocess.run([program or LOCKSTEP, *map(str, arguments)], capture_output=True,
                          text=True, timeout=timeout or TIMEOUT_S, env=environment(env), cwd=cwd)


def start(*arguments, env=None):
    """A running process whose output is read with finish()."""
    return subprocess.Popen([LOCKSTEP, *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment(env))


def finish(process, timeout=None):
    """(exit code, standard output, standard error)."""
    try:
        out, err = process.communicate(timeout=timeout or TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running:\n{out}\n{err}") from None
    return process.returncode, out, err


def sha256_of(output):
    """The hash in the last line of a run's standard output."""
    lines = output.strip().splitlines()
    match = re.fullmatch(r"weights sha256: ([0-9a-f]{64})", lines[-1] if lines else "")
    assert match, f"no hash in the last line of:\n{output}"
    return match.group(1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children_of(pid):
    return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition, what, timeout=20):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class RunTest(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.runs = 0

    def output(self):
        self.runs += 1
        return self.folder / f"run-{self.runs}"

    def train(self, *arguments, env=None, output=None):
        """(hash, output folder) of a small job that must complete."""
        output = output or self.output()
        done = run("train", *arguments, "--output", output, env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return sha256_of(done.stdout), output

    def assert_fails(self, done, code, *words):
        """The exit code, and that the message names each of `words`."""
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        for word in words:
            self.assertIn(str(word), done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def report(self, output):
        return json.loads((output / "report.json").read_text())


def stop_processes(*processes):
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def main():
    global LOCKSTEP
    parser = argparse.ArgumentParser()
    parser.add_argument("--lockstep", required=True)
    known, rest = parser.parse_known_args()
    sys.modules["runs"].LOCKSTEP = os.path.abspath(known.lockstep)
    unittest.main(module="__main__", argv=[sys.argv[0], *rest], verbosity=2)


def main_in(python, is_complete):
    """main(), in the other Python, where it is there, if this one lacks what the tests need."""
    if not is_complete and python.exists() and pathlib.Path(sys.executable) != python:
        sys.exit(subprocess.run([str(python), "-B", *sys.argv], check=False).returncode)
    main()
