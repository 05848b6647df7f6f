"""What exactness under faults costs where nothing fails: CPU time of a step, in turn.

    python tests/bench/cost.py --lockstep build/lockstep [--quick]

`nothing` is the training loop alone: batches, gradients, updates. `digests` hashes each new state
as well. `everything` is `lockstep train` with one node, as it is by default: a coordinator,
leases, a report and a digest each step, the ledger's counts, checkpoints. All on the same number
of threads. Of every contender a long and a short run are measured; the difference of their CPU
times, children included, belongs to the steps between them, and starts cancel out.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial

import common

BATCH_SIZES = (32, 128)
DEVICES = 1  # threads that wait for each other spin: CPU time of nothing
NUMERICS = "cpu-avx2"  # a job's default
EPOCHS = 3  # of the long run; the short one has one


def cpu_seconds(command):
    """Of a process that must succeed, with all that it waited for."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(process.args)}: exit status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def a_step(command_for, steps):
    """CPU seconds of one step; command_for(epochs) trains so many epochs of `steps` steps."""
    difference = cpu_seconds(command_for(EPOCHS)) - cpu_seconds(command_for(1))
    return difference / ((EPOCHS - 1) * steps)


def loop(binary, batch_size, steps, digests, epochs):
    return [binary, "bench", "step", "--batch-size", batch_size, "--devices", DEVICES,
            "--steps", epochs * steps, "--numerics", NUMERICS,
            *([] if digests else ["--no-digests"])]


def job(binary, folder, batch_size, steps, epochs):
    return [binary, "train", "--model", "seed-cnn", "--data", f"digits:{steps * batch_size}",
            "--batch-size", batch_size, "--epochs", epochs, "--nodes", 1, "--devices", DEVICES,
            "--numerics", NUMERICS, "--output", tempfile.mkdtemp(dir=folder) + "/run"]


def compare(binary, folder, batch_size, quick):
    # MNIST's rows an epoch, so that checkpoints at their ends are as frequent as there.
    steps = (12_000 if quick else 60_000) // batch_size
    common.note(f"batch {batch_size}: measuring")
    contenders = {
        "nothing": partial(loop, binary, batch_size, steps, False),
        "digests": partial(loop, binary, batch_size, steps, True),
        "everything": partial(job, binary, folder, batch_size, steps),
    }
    results = common.alternate(
        {name: partial(a_step, command, steps) for name, command in contenders.items()},
        5 if quick else 9)
    base = statistics.median(results["nothing"])
    rows = []
    for name, seconds in results.items():
        paired = [100 * (own / bare - 1) for own, bare in zip(seconds, results["nothing"])]
        rows.append([name, f"{1e3 * statistics.median(seconds):.3f}", f"{1e3 * min(seconds):.3f}",
                     f"{100 * (statistics.median(seconds) / base - 1):+.1f} %",
                     f"{statistics.median(paired):+.1f} %"])
    common.print_table(f"CPU time of a step of seed-cnn, batch {batch_size}, {DEVICES} thread",
                       ["", "ms median", "best", "medians", "median of the pairs"], rows)


def main():
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    common.warn_if_busy()
    with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder:
        for batch_size in BATCH_SIZES:
            compare(options.lockstep, folder, batch_size, options.quick)


if __name__ == "__main__":
    main()
