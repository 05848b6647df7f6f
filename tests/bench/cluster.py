"""Two nodes of one thread over loopback: Lockstep against PyTorch DDP over gloo, in turn.

    python tests/bench/cluster.py --lockstep build/lockstep [--quick]

Batch sizes are global. Every number is the median step of a round (of DDP: of the slower rank);
the tables show the median and the best round.
"""

from functools import partial

import common

BATCH_SIZES = (32, 128)
NODES = 2
CHOICES = {"channels_last": [False, True], "pinned": [False, True]}


def lockstep_step(result, binary, numerics, batch_size, steps):
    result |= common.run_lockstep(
        binary, "cluster", "--batch-size", batch_size, "--nodes", NODES, "--devices", 1,
        "--steps", steps, *numerics)
    return result["seconds_per_step"]


def compare(options, peers, batch_size):
    quick = options.quick
    numerics = ["--numerics", options.numerics] if options.numerics else []
    steps = (6400 if quick else 25600) // batch_size
    for name, peer in peers.items():
        common.note(f"batch {batch_size}: probing {name}")
        peer.configure(batch_size, CHOICES, max(10, steps // 4), 2 if quick else 3)
    result = {}
    contenders = {
        "lockstep": partial(lockstep_step, result, options.lockstep, numerics, batch_size, steps)}
    contenders |= {name: partial(peer.measure, steps) for name, peer in peers.items()}
    common.note(f"batch {batch_size}: measuring")
    results = common.alternate(contenders, 3 if quick else 9)
    report(peers, batch_size, result["numerics"], results)


def report(peers, batch_size, numerics, results):
    title = f"Global batch {batch_size}, {NODES} nodes, {numerics}"
    common.print_rates(title, batch_size, results)
    for name, peer in peers.items():
        memory = "channels last" if peer.settings["channels_last"] else "NCHW"
        place = "each rank on its core" if peer.settings["pinned"] else "ranks unbound"
        print(f"  {name}: {memory}, {place}")
    ratio, best = common.ratio_to_best(results)
    print(f"  Lockstep / {best} (median/median): {ratio:.2f}")


def main():
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--numerics", help="numerics, if not the widest of this CPU")
    options = parser.parse_args()
    common.warn_if_busy()
    with (common.PeerGroup("ddp.py", NODES) as eager,
          common.PeerGroup("ddp.py", NODES) as compiled):
        peers = {
            "DDP eager": common.Peer(eager, {"compiled": False}),
            "DDP compiled": common.Peer(compiled, {"compiled": True}),
        }
        for batch_size in BATCH_SIZES:
            compare(options, peers, batch_size)


if __name__ == "__main__":
    main()
