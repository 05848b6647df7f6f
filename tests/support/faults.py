"""Jobs that faults are done to: processes whose lines are kept with the moment at which they came,
a light client that asks a coordinator where it is, and clusters started by hand."""
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import runs

LEDGER_CHECK = runs.ROOT / "tests" / "interop" / "check_ledger.py"
ROWS = 6000
EPOCHS, BATCH, SEED, PARTITIONS = 6, 64, 3, 8


def job(model, epochs):
    return ["--model", model, "--data", f"digits:{ROWS}", "--epochs", str(epochs), "--batch-size",
            str(BATCH), "--seed", str(SEED), "--partitions", str(PARTITIONS)]


# Some seconds: long enough for a death, a replacement and some steps after them. Most of it would
# be spent in the optimizer of a larger model.
JOB = job("lenet", EPOCHS)
STEPS_PER_EPOCH = -(-ROWS // BATCH)
STEPS = EPOCHS * STEPS_PER_EPOCH
LEASE = ["--lease", "1.5"]
_references = {}


def reference(job=None):
    """The hash of a job that nothing happens to; each job is trained once in a process."""
    key = tuple(job or JOB)
    if key not in _references:
        with tempfile.TemporaryDirectory(prefix="lockstep-test-") as folder:
            done = runs.run("train", *key, "--nodes", 1, "--devices", 2, "--output",
                            pathlib.Path(folder) / "run")
        assert done.returncode == 0, done.stderr
        _references[key] = runs.sha256_of(done.stdout)
    return _references[key]


class Running:
    """A process of the lockstep binary; its output is read all the time."""

    def __init__(self, *arguments, prefix=(), env=None):
        command = [*prefix, runs.LOCKSTEP, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, env=runs.environment(env))
        self.started = time.monotonic()
        self.lines = []  # of standard error: (moment, line)
        self.out = []
        self.changed = threading.Condition()
        self.readers = [threading.Thread(target=self._read, args=(stream, sink), daemon=True)
                        for stream, sink in ((self.process.stderr, self._add_line),
                                             (self.process.stdout, self.out.append))]
        for reader in self.readers:
            reader.start()

    @property
    def pid(self):
        return self.process.pid

    def _read(self, stream, sink):
        for line in stream:
            sink(line)
        with self.changed:
            self.changed.notify_all()

    def _add_line(self, line):
        with self.changed:
            self.lines.append((time.monotonic(), line.rstrip("\n")))
            self.changed.notify_all()

    def log(self):
        return "\n".join(line for _, line in list(self.lines))

    def count(self, pattern):
        return sum(1 for _, line in list(self.lines) if re.search(pattern, line))

    def wait_for(self, pattern, times=1, timeout=30):
        """The match in the line that is the `times`-th with such a text."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                found = [m for _, line in self.lines for m in [re.search(pattern, line)] if m]
                if len(found) >= times:
                    return found[times - 1]
                assert self.process.poll() is None or self.readers[0].is_alive(), \
                    f"ended with {self.process.returncode} before '{pattern}':\n{self.log()}"
                left = deadline - time.monotonic()
                assert left > 0, f"not within {timeout} s: '{pattern}' in\n{self.log()}"
                self.changed.wait(min(left, 0.2))

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)

    def finish(self, timeout=60):
        """(exit code, standard output, standard error)."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.log()}") from None
        for reader in self.readers:
            reader.join(10)
        return self.process.returncode, "".join(self.out), self.log()

    def stop(self):
        """Whatever happened, it is over now; a stopped process is ended too."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for reader in self.readers:
            reader.join(2)
        self.process.stdout.close()
        self.process.stderr.close()

    # --- of `train` ---

    def nodes(self):
        """The node processes that `train` has started: name -> process id."""
        found = {}
        for child in runs.children_of(self.pid):
            arguments = command_line(child)
            if "--name" in arguments and runs.is_alive(child):
                found[arguments[arguments.index("--name") + 1]] = child
        return found

    def address(self, timeout=20):
        """Where the coordinator of this `train` or `coordinator` listens."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            for child in runs.children_of(self.pid):
                arguments = command_line(child)
                if "--coordinator" in arguments:
                    return arguments[arguments.index("--coordinator") + 1]
            time.sleep(0.01)
        raise AssertionError(f"no node was started:\n{self.log()}")


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


class Control:
    """Asks a coordinator for its status, over one connection: strict binary Thrift."""

    def __init__(self, address, timeout=2):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.socket.settimeout(timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _receive(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise OSError("the coordinator closed the connection")
            data += part
        return data

    def status(self):
        name = b"status"
        self.socket.sendall(struct.pack(">Ii", 0x80010001, len(name)) + name +
                            struct.pack(">iB", 0, 0))
        version, length = struct.unpack(">Ii", self._receive(8))
        assert version == 0x80010002, hex(version)
        self._receive(length + 4)
        kind, field = struct.unpack(">Bh", self._receive(3))
        assert (kind, field) == (11, 0), (kind, field)
        text = self._receive(struct.unpack(">i", self._receive(4))[0])
        self._receive(1)
        return json.loads(text)

    def close(self):
        self.socket.close()


def status(address):
    """What the coordinator says, or None while it does not answer."""
    try:
        control = Control(address)
    except OSError:
        return None
    try:
        return control.status()
    except OSError:
        return None
    finally:
        control.close()


def step_of(address):
    return (status(address) or {}).get("step", -1)


def wait_for_step(address, step, process=None, timeout=40):
    """Waits until `step` steps are done, or the process has ended."""
    ended = lambda: process is not None and process.process.poll() is not None
    try:
        runs.wait_until(lambda: ended() or step_of(address) >= step, f"step {step}", timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{process.log() if process else ''}") from None
    if process is not None and ended():
        raise AssertionError(f"ended before step {step}:\n{process.log()}")


class FaultTest(runs.RunTest):
    """Whatever a test has started is ended after it."""

    def launch(self, *arguments, **options):
        process = Running(*arguments, **options)
        self.addCleanup(process.stop)
        return process

    def start_train(self, *arguments, nodes=3, job=None, output=None, **options):
        """(process, output folder) of a run on this machine."""
        output = output or self.output()
        process = self.launch("train", *(job or JOB), "--nodes", nodes, "--devices", 1, "--output",
                              output, *arguments, **options)
        return process, output

    def assert_same(self, process, output, job=None, timeout=60):
        """Completed, with the bits of the run that nothing happened to. Its report."""
        code, out, err = process.finish(timeout)
        self.assertEqual(code, 0, err)
        self.assertEqual(runs.sha256_of(out), reference(job), err)
        report = self.report(output)
        self.assertEqual(report["status"], "completed")
        self.assertEqual(report["samples_consumed"], report["samples_assigned"], err)
        return report

    def assert_ledger(self, path, epochs=EPOCHS):
        done = subprocess.run(
            [sys.executable, str(LEDGER_CHECK), str(path), "--rows", str(ROWS), "--batch-size",
             str(BATCH), "--epochs", str(epochs), "--partitions", str(PARTITIONS), "--seed",
             str(SEED)], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def start_coordinator(self, output, *arguments, port=None, prefix=(), job=None,
                          host="127.0.0.1"):
        """(process, address) of a coordinator whose nodes are started by hand."""
        port = port or runs.free_port()
        process = self.launch("coordinator", *(job or JOB), "--listen", f"{host}:{port}",
                              "--output", output, *arguments, prefix=prefix)
        return process, f"{host}:{port}"

    def start_node(self, address, name, *arguments, prefix=(), data=f"digits:{ROWS}"):
        return self.launch("node", "--coordinator", address, "--name", name, "--devices", 1,
                           "--data", data, *arguments, prefix=prefix)

    def start_and_leave(self, output, step):
        """A coordinator with its address; its only node has left at `step`, the job waits."""
        coordinator, address = self.start_coordinator(output, "--nodes", "1:2")
        node = self.start_node(address, "n0")
        wait_for_step(address, step, coordinator)
        node.kill(signal.SIGTERM)
        self.assertEqual(node.finish(10)[0], 143, node.log())
        coordinator.wait_for("the job waits for one")
        return coordinator, address


def end_all(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
