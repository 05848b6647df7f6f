"""A long job to which something happens every few seconds; it must end with the bits of the job to
which nothing happens, count each sample once, and leak nothing.

    ./dev soak [--minutes N] [--seed S]
"""
import argparse
import collections
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import faults
import runs
from faults import ROWS, Running

MODEL = "seed-cnn"
LEASE_S = 1.5
MOST_NODES = 4
SPARED = 0.5  # from this share of the time, or the steps, on coordinator and oldest node are spared
# Between the first and the last look at one process. Allocators keep what they had.
MOST_GROWTH = {"resident MiB": 64, "descriptors": 8, "sockets": 8, "threads": 8}
EXPECTED_ENDS = {0, 143, -signal.SIGKILL}


class Soak:
    def __init__(self, folder, epochs, seed, seconds):
        self.folder, self.epochs = folder, epochs
        self.chance = random.Random(seed)
        self.port = runs.free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.begin = time.monotonic()
        self.ends = self.begin + seconds
        self.seconds = seconds
        self.happened = collections.Counter()
        self.odd = []
        self.nodes = []
        self.looks = {}  # process -> [(age, figures)]
        self.named = 0
        self.reached = 0  # the step, as far as the coordinator has said
        self.coordinator = None

    def start_coordinator(self):
        self.coordinator = Running(
            "coordinator", *faults.job(MODEL, self.epochs), "--nodes", "1:8", "--lease", LEASE_S,
            "--checkpoint-every", "100steps", "--listen", self.address, "--output",
            self.folder / "run", "--ledger", self.folder / "ledger.jsonl")

    def start_node(self):
        self.named += 1
        self.nodes.append(Running("node", "--coordinator", self.address, "--name",
                                  f"n{self.named}", "--devices", 1, "--data", f"digits:{ROWS}"))

    def spares(self):
        return (time.monotonic() - self.begin > SPARED * self.seconds or
                self.reached > SPARED * self.epochs * faults.STEPS_PER_EPOCH)

    def victims(self):
        """Nodes that something may happen to."""
        return self.nodes[1:] if self.spares() else list(self.nodes)

    # --- what happens ---

    def kill_node(self):
        if self.victims():
            self.chance.choice(self.victims()).kill()

    def stop_node(self):
        """Shorter or longer than its lease."""
        if not self.victims():
            return
        node = self.chance.choice(self.victims())
        node.kill(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.2, 2 * LEASE_S))
        node.kill(signal.SIGCONT)

    def leave(self):
        if len(self.nodes) > 1 and self.victims():
            self.chance.choice(self.victims()).kill(signal.SIGTERM)

    def join(self):
        if len(self.nodes) < MOST_NODES:
            self.start_node()

    def kill_coordinator(self):
        if self.spares():
            return
        self.end(self.coordinator)
        time.sleep(self.chance.uniform(0, 2))
        self.start_coordinator()

    def kill_both(self):
        """The coordinator, and a node while it is away."""
        if self.spares():
            return
        self.end(self.coordinator)
        self.kill_node()
        self.start_coordinator()

    def kill_all(self):
        if self.spares():
            return
        for process in [self.coordinator, *self.nodes]:
            self.end(process)
        self.nodes = []
        self.start_coordinator()
        for _ in range(self.chance.randint(1, 3)):
            self.start_node()

    def end(self, process):
        process.stop()
        self.looks.pop(process, None)

    # --- watching ---

    def tend(self):
        """Nodes that have ended are replaced where there are too few."""
        for node in list(self.nodes):
            code = node.process.poll()
            if code is None:
                continue
            self.nodes.remove(node)
            node.finish(1)  # all that it said is read
            gone_on_without = node.count("unknown session|expelled from the job|the job is over")
            if code not in EXPECTED_ENDS and not gone_on_without:
                self.odd.append(f"a node ended with {code}:\n{node.log()[-2000:]}")
            self.end(node)
        while len(self.nodes) < 2:
            self.start_node()
        for process in [self.coordinator, *self.nodes]:
            age = time.monotonic() - process.started
            figures = figures_of(process.pid)
            if age > 8 and figures:  # it has its data and its buffers by then
                self.looks.setdefault(process, []).append((age, figures))

    def over(self):
        return self.coordinator.process.poll() is not None

    def run(self):
        """Until the time is over, or the job is."""
        for _ in range(3):
            self.start_node()
        self.start_coordinator()
        kinds = [self.kill_node, self.stop_node, self.leave, self.join, self.kill_coordinator,
                 self.kill_both, self.kill_all]
        while time.monotonic() < self.ends and not self.over():
            quiet = time.monotonic() + self.chance.uniform(0.3, 4)
            while time.monotonic() < quiet and not self.over():
                self.tend()
                time.sleep(0.2)
            if self.over():
                return
            kind = self.chance.choice(kinds)
            kind()
            self.happened[kind.__name__] += 1
            said = faults.status(self.address) or {}
            self.reached = max(self.reached, said.get("step", 0))
            print(f"\r{time.monotonic() - self.begin:5.0f} s, {kind.__name__}: step "
                  f"{said.get('step', '?')}, {len(self.nodes)} nodes      ", end="",
                  file=sys.stderr, flush=True)

    def finish(self, timeout):
        deadline = time.monotonic() + timeout
        while not self.over() and time.monotonic() < deadline:
            self.tend()
            time.sleep(0.2)
        print(file=sys.stderr)
        return self.coordinator.finish(1)

    def growth(self):
        """(process, what, first, last) of what grew too much; and the longest watched."""
        found, longest = [], 0
        for process, looks in self.looks.items():
            (first_age, first), (last_age, last) = looks[0], looks[-1]
            longest = max(longest, last_age - first_age)
            for what, most in MOST_GROWTH.items():
                if last[what] - first[what] > most:
                    found.append((process.pid, what, first[what], last[what]))
        return found, longest

    def close(self):
        for process in [self.coordinator, *self.nodes]:
            if process:
                process.stop()


def figures_of(pid):
    try:
        links = [link.readlink().as_posix() for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
        lines = dict(line.split(":", 1) for line in
                     pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
        return {"resident MiB": int(lines["VmRSS"].split()[0]) / 1024, "descriptors": len(links),
                "sockets": sum(link.startswith("socket:") for link in links),
                "threads": int(lines["Threads"])}
    except (OSError, KeyError):
        return None  # it has just ended


def epochs_for(seconds):
    """As many as fill somewhat more than half of the time where nothing happens."""
    def lasts(epochs):
        begin = time.monotonic()
        faults.reference(faults.job(MODEL, epochs))
        return time.monotonic() - begin

    of_one = max(0.1, (lasts(10) - lasts(2)) / 8)
    return max(6, int(0.6 * seconds / of_one))


def check_ledger(path, epochs):
    done = subprocess.run(
        [sys.executable, str(faults.LEDGER_CHECK), str(path), "--rows", str(ROWS), "--batch-size",
         str(faults.BATCH), "--epochs", str(epochs), "--partitions", str(faults.PARTITIONS),
         "--seed", str(faults.SEED)], capture_output=True, text=True, timeout=600, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--lockstep", required=True)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    runs.LOCKSTEP = str(pathlib.Path(options.lockstep).resolve())
    seconds = options.minutes * 60
    runs.TIMEOUT_S = 4 * seconds + 120
    epochs = epochs_for(seconds)
    print(f"seed {options.seed}: {epochs} epochs of {faults.STEPS_PER_EPOCH} steps", flush=True)
    expected = faults.reference(faults.job(MODEL, epochs))
    with tempfile.TemporaryDirectory(prefix="lockstep-soak-") as folder:
        soak = Soak(pathlib.Path(folder), epochs, options.seed, seconds)
        try:
            soak.run()
            lasted = time.monotonic() - soak.begin
            code, out, err = soak.finish(4 * seconds + 120)
            grown, longest = soak.growth()
            whole, ledger = check_ledger(soak.folder / "ledger.jsonl", epochs) if code == 0 else \
                (False, f"the job failed with exit code {code}:\n{err[-3000:]}")
        finally:
            soak.close()
    same = code == 0 and runs.sha256_of(out) == expected
    print(f"{sum(soak.happened.values())} faults in {lasted:.0f} s: " +
          ", ".join(f"{kind} {count}" for kind, count in sorted(soak.happened.items())))
    print(f"bits: {'the same' if same else 'DIFFERENT, or none'}\nledger: {ledger}")
    print(f"growth of processes watched for up to {longest:.0f} s: {grown or 'none'}")
    for text in soak.odd:
        print(text)
    sys.exit(0 if same and whole and not grown and not soak.odd else 1)


if __name__ == "__main__":
    main()
