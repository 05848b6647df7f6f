"""Averaging FP32 gradients among processes over loopback: Lockstep against gloo, in turn.

    python tests/bench/average.py --lockstep build/lockstep [--quick]

A megabyte is 10^6 bytes. Every number is the median all-reduce of a round (of gloo: of the
slowest rank, with the division); the table shows the median and the best round. Gloo runs with
its ranks unbound and with each on a core of its own; the table shows the faster of the two.
"""

import statistics
from functools import partial

import common

NODES = (2, 4)
MEGABYTES = (1, 25, 100)


def lockstep_seconds(binary, nodes, megabytes, repetitions):
    result = common.run_lockstep(
        binary, "average", "--megabytes", megabytes, "--nodes", nodes, "--rounds", repetitions)
    return result["seconds"]


def gloo_seconds(group, pinned, megabytes, repetitions):
    replies = group.call("run", megabytes=megabytes, repetitions=repetitions, pinned=pinned)
    return statistics.median(common.slowest(replies))


def repetitions_in_a_round(megabytes, quick):
    return max(3, (100 if quick else 400) // max(megabytes, 4))


def compare(binary, group, nodes, megabytes, quick):
    repetitions = repetitions_in_a_round(megabytes, quick)
    common.note(f"{nodes} processes, {megabytes} MB: measuring")
    results = common.alternate({
        "lockstep": partial(lockstep_seconds, binary, nodes, megabytes, repetitions),
        "unbound": partial(gloo_seconds, group, False, megabytes, repetitions),
        "pinned": partial(gloo_seconds, group, True, megabytes, repetitions),
    }, 3 if quick else 7)
    ratio, best = common.ratio_to_best(results)
    row = [str(nodes), str(megabytes)]
    for seconds in (results["lockstep"], results[best]):
        row += [f"{1e3 * statistics.median(seconds):.2f}", f"{1e3 * min(seconds):.2f}"]
    return [*row, best, f"{ratio:.2f}"]


def main():
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    common.warn_if_busy()
    rows = []
    for nodes in NODES:
        with common.PeerGroup("average.py", nodes) as group:
            for megabytes in MEGABYTES:
                rows.append(compare(options.lockstep, group, nodes, megabytes, options.quick))
    headers = ["processes", "MB", "lockstep ms median", "best", "gloo ms median", "best",
               "gloo's ranks", "gloo / lockstep"]
    common.print_table("All-reduce (mean) of FP32 over TCP loopback", headers, rows)


if __name__ == "__main__":
    main()
