"""What the three benchmarks share: running Lockstep and its peers in turn, and tables."""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

PEERS = pathlib.Path(__file__).parent / "peers"


def warn_if_busy():
    """Other processes on the cores slow either side, and not evenly."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"Warning: load average {load:.1f} before the start; an idle machine is needed.")


def parser(description):
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--lockstep", required=True, help="the lockstep binary to measure")
    result.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    return result


def run_lockstep(binary, *arguments):
    """Run one `lockstep bench`; its result is the JSON object on the last line of stdout."""
    command = [binary, "bench", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}")
    lines = done.stdout.strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        sys.exit(f"{' '.join(command)}: no JSON object on the last line of its output")


class PeerGroup(contextlib.AbstractContextManager):
    """The processes of one peer: each gets every command; they stay until the group is closed."""

    def __init__(self, script, ranks=None):
        self.folder = tempfile.TemporaryDirectory(prefix="lockstep-bench-")
        store = f"file://{self.folder.name}/store"
        if ranks is None:
            arguments = [[]]
        else:
            arguments = [[str(rank), str(ranks), store] for rank in range(ranks)]
        self.processes = [start_peer(script, each) for each in arguments]

    def call(self, command, **arguments):
        """Send a command to each process; return their replies in the order of the ranks."""
        line = json.dumps({"command": command, **arguments}) + "\n"
        for process in self.processes:
            process.stdin.write(line)
            process.stdin.flush()
        return [self.reply(process) for process in self.processes]

    def reply(self, process):
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended: {' '.join(process.args)}")
        return json.loads(line)

    def __exit__(self, *_):
        for process in self.processes:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        self.folder.cleanup()


# Memory stays with the process: PyTorch is the faster by it.
PEER_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
                    "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


def start_peer(script, arguments):
    environment = {**os.environ, **PEER_ENVIRONMENT}
    return subprocess.Popen(
        [sys.executable, str(PEERS / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def slowest(replies):
    """Of each step the time of the slowest rank."""
    return [max(step) for step in zip(*replies)]


class Peer:
    """A peer that trains, and the settings that a short probe found best for it."""

    def __init__(self, group, fixed):
        self.group = group
        self.fixed = fixed
        self.settings = {}

    def configure(self, batch_size, choices, steps, passes):
        """Stay with the fastest combination of the choices.

        The passes go over all of them again, and the lowest median counts: a moment in which
        the machine was busy decides nothing.
        """
        candidates = [
            dict(zip(choices, values)) for values in itertools.product(*choices.values())
        ]
        seconds = [[] for _ in candidates]
        for _ in range(passes):
            for candidate, medians in zip(candidates, seconds):
                self.apply(batch_size, candidate)
                medians += [self.measure(steps), self.measure(steps)]
        lowest = [min(medians) for medians in seconds]
        self.settings = candidates[lowest.index(min(lowest))]
        self.apply(batch_size, self.settings)

    def apply(self, batch_size, candidate):
        self.group.call("configure", batch_size=batch_size, **self.fixed, **candidate)
        self.group.call("run", steps=1)

    def measure(self, steps):
        return statistics.median(slowest(self.group.call("run", steps=steps)))


def alternate(contenders, rounds):
    """Call each contender once a round, in turn; return the results of each by its name."""
    results = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            results[name].append(measure())
    return results


def print_rates(title, batch_size, results):
    """Images a second of each contender: its median round and its best one."""
    rows = []
    for name, seconds in results.items():
        median = statistics.median(seconds)
        rows.append([
            name,
            f"{batch_size / median:,.0f}",
            f"{batch_size / min(seconds):,.0f}",
            f"{1e3 * median:.3f}",
        ])
    print_table(title, ["", "img/s median", "img/s best", "ms/step median"], rows)


def ratio_to_best(results, ours="lockstep"):
    """How many times as fast as the fastest other contender ours is, and that one's name."""
    medians = {name: statistics.median(seconds) for name, seconds in results.items()}
    own = medians.pop(ours)
    best = min(medians, key=medians.get)
    return medians[best] / own, best


def print_table(title, headers, rows):
    widths = [max(map(len, column)) for column in zip(headers, *rows)]
    print(f"\n{title}")
    for row in [headers, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  " + "  ".join(cells).rstrip(), flush=True)


def note(text):
    """A line on what goes on, apart from the results."""
    print(text, file=sys.stderr, flush=True)
