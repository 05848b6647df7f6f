"""What strangers cost a job: a step's time while they connect, trickle and flood, and without.

    python tests/bench/strangers.py --lockstep build/lockstep [--quick]

A coordinator and two nodes train under TLS on loopback. In turn nobody comes, or 500 connections a
port that trickle bytes, a flood of garbage, or handshakes that are begun and never ended. Strangers
would be on machines of their own: here they have the last core to themselves, and the job has the
others. What is left of their weight on the machine is seen where they flood a port that is not the
job's (`elsewhere`): the pairs compare with that.
"""

import contextlib
import multiprocessing
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from functools import partial

import common

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import runs  # noqa: E402
from attacks import Strangers  # noqa: E402

JOB = ["--model", "seed-cnn", "--data", "digits:3000", "--epochs", 100000, "--batch-size", 64]
NODES = 2
WAYS = {"nobody": (), "elsewhere": ("flood",), "trickle": ("trickle",), "flood": ("flood",),
        "greet": ("greet",)}
CORES = sorted(os.sched_getaffinity(0))
TICK = os.sysconf("SC_CLK_TCK")


class Job:
    """The job's processes; `addresses` are where strangers can reach them."""

    def __init__(self, binary, folder):
        ports = [runs.free_port() for _ in range(NODES + 2)]
        self.metrics = f"http://127.0.0.1:{ports[0]}/metrics"
        self.addresses = [f"127.0.0.1:{port}" for port in ports[1:]]
        run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
        run([binary, "certs", "--output", f"{folder}/certificates", "--job-name", "strangers"])
        self.log = open(f"{folder}/log", "w", encoding="utf-8")
        self.processes = []
        self.start(binary, "coordinator", *JOB, "--nodes", NODES, "--listen", self.addresses[0],
                   "--metrics-listen", f"127.0.0.1:{ports[0]}", "--output", f"{folder}/run",
                   "--tls", f"{folder}/certificates/coordinator")
        for address in self.addresses[1:]:
            self.start(binary, "node", "--coordinator", self.addresses[0], "--listen", address,
                       "--devices", 1, "--tls", f"{folder}/certificates/node")

    def start(self, *command):
        self.processes.append(subprocess.Popen([str(word) for word in command], stdout=self.log,
                                               stderr=self.log))

    def steps(self):
        text = urllib.request.urlopen(self.metrics, timeout=30).read().decode()
        return int(re.search(r"^lockstep_step (\d+)$", text, re.M)[1])

    def cpu_seconds(self):
        def of(pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / TICK
        return sum(of(process.pid) for process in self.processes)

    def wait_for_start(self):
        def trains():
            if any(process.poll() is not None for process in self.processes):
                sys.exit(f"a process has ended:\n{pathlib.Path(self.log.name).read_text()}")
            with contextlib.suppress(OSError, TypeError):
                return self.steps() >= 20
            return False
        runs.wait_until(trains, "the first steps", 120)

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.log.close()


def closed_at_once(over):
    """The address of a port that closes each connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.settimeout(0.1)

    def serve():
        with listener:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    listener.accept()[0].close()
    threading.Thread(target=serve).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def be_strangers(addresses, way, over, connections):
    os.sched_setaffinity(0, CORES[-1:])
    if way == "elsewhere":
        addresses = [closed_at_once(over) for _ in addresses]
    with Strangers(addresses, WAYS[way]) as strangers:
        over.wait()
    connections.value = strangers.connections


def measure(job, way, seconds):
    """(seconds a step, CPU seconds a step, connections a second) in a window of that length."""
    over, connections = multiprocessing.Event(), multiprocessing.Value("q", 0)
    attack = multiprocessing.Process(target=be_strangers,
                                     args=(job.addresses, way, over, connections))
    begin = time.monotonic()
    attack.start()
    time.sleep(2)  # until all are there
    steps, cpu, start = job.steps(), job.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    steps, cpu, passed = job.steps() - steps, job.cpu_seconds() - cpu, time.monotonic() - start
    over.set()
    attack.join()
    if steps <= 0:
        sys.exit(f"no step within {seconds} s")
    return passed / steps, cpu / steps, connections.value / (time.monotonic() - begin)


def main():
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    common.warn_if_busy()
    seconds, rounds = (3, 5) if options.quick else (6, 9)
    os.sched_setaffinity(0, CORES[:-1] or CORES)
    with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder:
        job = Job(options.lockstep, folder)
        try:
            job.wait_for_start()
            results = common.alternate(
                {way: partial(measure, job, way, seconds) for way in WAYS}, rounds)
        finally:
            job.close()
    rows = []
    for name, windows in results.items():
        row = [name, f"{statistics.median(each[2] for each in windows):,.0f}"]
        for which in (0, 1):
            pairs = [100 * (own[which] / quiet[which] - 1)
                     for own, quiet in zip(windows, results["elsewhere"])]
            row += [f"{1e3 * statistics.median(each[which] for each in windows):.3f}",
                    f"{statistics.median(pairs):+.1f} %"]
        each_ms = [1e3 * (own[1] - quiet[1]) / (own[0] * own[2])
                   for own, quiet in zip(windows, results["elsewhere"]) if own[2]]
        rows.append([*row, f"{statistics.median(each_ms):.3f}" if each_ms else ""])
    common.print_table(f"A step of seed-cnn, {NODES} nodes under TLS; {rounds} times {seconds} s",
                       ["", "connections/s", "ms", "pairs", "CPU ms", "pairs", "ms a connection"],
                       rows)


if __name__ == "__main__":
    main()
