"""How long it takes to go on: kills nodes, coordinators and everything, again and again, and grows
and shrinks a run. Prints a table; each run must end with the bits of the run without faults.

    ./dev fault-report [--quick] [--nodes N] [--coordinators N] [--everything N] [--seed S]
"""
import argparse
import contextlib
import pathlib
import random
import re
import signal
import statistics
import sys
import tempfile
import time

import faults
import runs
from faults import Control, Running, wait_for_step

EPOCHS = 2
JOB = faults.job("seed-cnn", EPOCHS)
STEPS = EPOCHS * faults.STEPS_PER_EPOCH
CHECKPOINT_EVERY = 20


class Case:
    """One run in a folder of its own; all that it started ends with it."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.folder = pathlib.Path(self.stack.enter_context(
            tempfile.TemporaryDirectory(prefix="lockstep-measure-")))
        self.output = self.folder / "run"

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        return self.stack.__exit__(*failure)

    def launch(self, *arguments):
        process = Running(*arguments)
        self.stack.callback(process.stop)
        return process

    def train(self, nodes, *arguments):
        return self.launch("train", *JOB, "--nodes", nodes, "--devices", 1, "--output",
                           self.output, *arguments)

    def coordinator(self, port, nodes):
        return self.launch("coordinator", *JOB, "--nodes", nodes, "--listen", f"127.0.0.1:{port}",
                           "--output", self.output)

    def node(self, port, name):
        return self.launch("node", "--coordinator", f"127.0.0.1:{port}", "--name", name,
                           "--devices", 1, "--data", f"digits:{faults.ROWS}")

    def check(self, process):
        """The bits, and that each sample counts once; the report."""
        code, out, err = process.finish(120)
        if code != 0:
            raise AssertionError(f"exit code {code}:\n{err}")
        if runs.sha256_of(out) != faults.reference(JOB):
            raise AssertionError(f"OTHER BITS: {runs.sha256_of(out)}\n{err}")
        report = runs.json.loads((self.output / "report.json").read_text())
        if report["samples_consumed"] != report["samples_assigned"]:
            raise AssertionError(f"samples: {report['samples_consumed']}\n{err}")
        return report


def poll(address, condition, timeout=30):
    """The first status that meets the condition; the coordinator may be away meanwhile."""
    deadline = time.monotonic() + timeout
    control = None
    while time.monotonic() < deadline:
        try:
            control = control or Control(address)
            said = control.status()
        except OSError:
            control = None
            time.sleep(0.002)
            continue
        if condition(said):
            control.close()
            return said
        time.sleep(0.002)
    raise AssertionError(f"not within {timeout} s")


def seconds_to_step_after_view(address, before):
    """From now to the first step of a view that comes after `before`."""
    begin = time.monotonic()
    changed = poll(address, lambda said: said.get("view", 0) > before["view"] and
                   said["phase"] in ("training", "finishing"))
    poll(address, lambda said: said["step"] > changed["step"])
    return time.monotonic() - begin


def kill_a_node(chance):
    with Case() as case:
        process = case.train(3)
        address = process.address()
        wait_for_step(address, chance.randrange(3, STEPS * 2 // 3), process)
        name, pid = chance.choice(sorted(process.nodes().items()))
        before = faults.status(address)
        held = next(m["partitions"] for m in before["members"] if m["name"] == name)
        faults.end_all([pid])
        seconds = seconds_to_step_after_view(address, before)
        report = case.check(process)
        again = sum(lost["partition_steps_again"] for lost in report["recoveries"])
        assert [lost["node"] for lost in report["recoveries"]] == [name], report["recoveries"]
        assert again <= held[1] - held[0], (again, held)
        assert report["restores"] == []
        return seconds, again


def kill_the_coordinator(chance):
    with Case() as case:
        port = runs.free_port()
        address = f"127.0.0.1:{port}"
        process = case.coordinator(port, 2)
        nodes = [case.node(port, f"n{i}") for i in range(2)]
        wait_for_step(address, chance.randrange(3, STEPS * 2 // 3), process)
        before = faults.status(address)
        process.kill()
        process.stop()
        begin = time.monotonic()
        process = case.coordinator(port, 2)
        poll(address, lambda said: said.get("view", 0) > before["view"] and
             said["step"] > before["step"])
        seconds = time.monotonic() - begin
        report = case.check(process)
        assert report["restores"] == [] and report["recoveries"] == [], report
        for node in nodes:
            assert node.finish(10)[0] == 0, node.log()
        return seconds, 0


def kill_everything(chance):
    with Case() as case:
        every = ["--checkpoint-every", f"{CHECKPOINT_EVERY}steps"]
        process = case.train(2, *every)
        wait_for_step(process.address(), chance.randrange(3, STEPS * 2 // 3), process)
        reached = faults.step_of(process.address())
        children = list(process.nodes().values())
        process.kill()
        process.stop()
        runs.wait_until(lambda: not any(map(runs.is_alive, children)), "the nodes end", 3)
        begin = time.monotonic()
        process = case.launch("train", "--resume", "--output", case.output, "--nodes", 2,
                              "--devices", 1, *every)
        resumed = int(process.wait_for(r"resumed from step (\d+)").group(1))
        process.wait_for("first step done")
        seconds = time.monotonic() - begin
        case.check(process)
        assert reached - resumed <= CHECKPOINT_EVERY, (reached, resumed)
        return seconds, max(0, reached - resumed)


def grow_and_shrink(_):
    with Case() as case:
        port = runs.free_port()
        address = f"127.0.0.1:{port}"
        process = case.coordinator(port, "1:4")
        nodes = [case.node(port, "n0")]
        wait_for_step(address, 5, process)
        nodes += [case.node(port, f"n{i}") for i in range(1, 4)]
        begin = time.monotonic()
        poll(address, lambda said: len(said["members"]) == 4 and said["phase"] == "training")
        for node in nodes[:2]:
            node.kill(signal.SIGTERM)
        assert [node.finish(10)[0] for node in nodes[:2]] == [143, 143], process.log()
        seconds = time.monotonic() - begin
        report = case.check(process)
        assert report["restores"] == [] and report["recoveries"] == []
        return seconds, 0


def measure(title, unit, case, count, chance):
    """One line of the table; whether all went well."""
    seconds, again, failed = [], [], 0
    for number in range(count):
        try:
            taken, repeated = case(chance)
        except AssertionError as failure:
            failed += 1
            print(f"{title}, number {number + 1}: {failure}", file=sys.stderr)
            continue
        seconds.append(taken)
        again.append(repeated)
        if sys.stderr.isatty():
            print(f"\r{title}: {number + 1}/{count}\033[K\r", end="", file=sys.stderr, flush=True)
    if seconds:
        print(f"| {title} | {len(seconds)} of {count} | {statistics.median(seconds):.2f} | "
              f"{max(seconds):.2f} | {max(again)} {unit} |", flush=True)
    return failed == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--lockstep", required=True)
    parser.add_argument("--quick", action="store_true", help="three of each")
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--coordinators", type=int, default=20)
    parser.add_argument("--everything", type=int, default=20)
    parser.add_argument("--grow", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    runs.LOCKSTEP = str(pathlib.Path(options.lockstep).resolve())
    chance = random.Random(options.seed)
    count = (lambda wanted: min(3, wanted)) if options.quick else (lambda wanted: wanted)
    model = re.sub(r"--\S+ ", "", " ".join(JOB[:4]))
    print(f"seed {options.seed}; {model}, {STEPS} steps, hash {faults.reference(JOB)[:12]}\n\n"
          "| what | same bits | median s | max s | most computed again |\n|---|---|---|---|---|",
          flush=True)
    good = [
        measure("one of three nodes killed", "partition-steps", kill_a_node,
                count(options.nodes), chance),
        measure("coordinator killed and started again", "steps", kill_the_coordinator,
                count(options.coordinators), chance),
        measure(f"everything killed, --resume (checkpoints every {CHECKPOINT_EVERY} steps)",
                "steps", kill_everything, count(options.everything), chance),
        measure("1 -> 4 -> 2 nodes", "partition-steps", grow_and_shrink, count(options.grow),
                chance)]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
