"""Averaging FP32 gradients among processes over loopback: Lockstep against gloo, in turn.

    python tests/bench/average.py --lockstep build/lockstep [--quick]

A megabyte is 10^6 bytes. Every number is the median all-reduce of a round (of gloo: of the
slowest rank, with the division); the table shows the median and the best round. Gloo runs with
its ranks unbound and with each on a core of its own; the table shows the faster of the two.
"""

import pathlib
import statistics
from functools import partial

import common

NODES = (2, 4)
MEGABYTES = (1, 25, 100)


def lockstep_seconds(binary, transport, nodes, megabytes, repetitions):
    result = common.run_lockstep(
        binary, "average", "--transport", transport, "--megabytes", megabytes, "--nodes", nodes,
        "--rounds", repetitions)
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
        "lockstep": partial(lockstep_seconds, binary, "shared-memory", nodes, megabytes,
                            repetitions),
        "tcp": partial(lockstep_seconds, binary, "tcp", nodes, megabytes, repetitions),
        "unbound": partial(gloo_seconds, group, False, megabytes, repetitions),
        "pinned": partial(gloo_seconds, group, True, megabytes, repetitions),
    }, 3 if quick else 7)
    best = min(("unbound", "pinned"), key=lambda name: statistics.median(results[name]))
    medians = {name: statistics.median(seconds) for name, seconds in results.items()}
    row = [str(nodes), str(megabytes)]
    for name in ("lockstep", "tcp", best):
        row += [f"{1e3 * medians[name]:.2f}", f"{1e3 * min(results[name]):.2f}"]
    return [*row, best, f"{medians[best] / medians['lockstep']:.2f}",
            f"{medians[best] / medians['tcp']:.2f}"]


def main():
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    common.warn_if_busy()
    rows = []
    for nodes in NODES:
        with common.PeerGroup("average.py", nodes) as group:
            for megabytes in MEGABYTES:
                rows.append(compare(options.lockstep, group, nodes, megabytes, options.quick))
    control = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text("ascii").strip()
    headers = ["processes", "MB", "lockstep ms median", "best", "over TCP median", "best",
               "gloo ms median", "best", "gloo's ranks", "gloo / lockstep", "gloo / TCP"]
    common.print_table("All-reduce (mean) of FP32 on one host: Lockstep through shared memory and "
                       f"over TCP, gloo over TCP ({control})", headers, rows)


if __name__ == "__main__":
    main()
