"""Training steps in one process: Lockstep against PyTorch, eager and compiled, in turn.

    python tests/bench/step.py --lockstep build/lockstep [--quick] [--model resnet20]

ResNet-20 beside Keras' fit() too. Every number is the median step of a round; the tables show the
median and the best round.
"""

import contextlib
import statistics
from functools import partial

import common

BATCH_SIZES = {"seed-cnn": (32, 128), "resnet20": (128,)}
PARTITIONS = (1, 2, 4, 8, 16)


def parse():
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--model", choices=BATCH_SIZES, help="this one only")
    parser.add_argument("--devices", type=int, default=2, help="CPU threads for either side")
    parser.add_argument("--partitions", type=int, help="partitions, if not the default number")
    parser.add_argument("--numerics", help="numerics, if not the widest of this CPU")
    return parser.parse_args()


class Lockstep:
    def __init__(self, options):
        self.binary = options.lockstep
        self.devices = options.devices
        self.numerics = ["--numerics", options.numerics] if options.numerics else []
        self.result = {}

    def step(self, model, batch_size, steps, partitions=None):
        chosen = ["--partitions", partitions] if partitions else []
        self.result = common.run_lockstep(
            self.binary, "step", "--model", model, "--batch-size", batch_size,
            "--devices", self.devices, "--steps", steps, *chosen, *self.numerics)
        return self.result["seconds_per_step"]

    def peak(self):
        return common.run_lockstep(self.binary, "peak", "--devices", self.devices)["gflops"]


def steps_in_a_round(model, batch_size, quick):
    images = 6400 if model == "seed-cnn" else 3200
    return max(6, (images // 5 if quick else images) // batch_size)


def peers_of(model, stack):
    """The processes that are measured beside Lockstep, by their names."""
    def start(script, **fixed):
        return common.Peer(stack.enter_context(common.PeerGroup(script)), fixed)

    peers = {f"PyTorch {way}": start("train.py", model=model, compiled=way == "compiled")
             for way in ("eager", "compiled")}
    if model == "resnet20":
        peers["Keras (PyTorch)"] = start("keras_fit.py")
    return peers


def compare(lockstep, peers, model, batch_size, options):
    steps = steps_in_a_round(model, batch_size, options.quick)
    for name, peer in peers.items():
        common.note(f"{model}, batch {batch_size}: probing {name}")
        choices = {"threads": sorted({1, options.devices})}
        if name.startswith("PyTorch"):
            choices["channels_last"] = [False, True]
        peer.configure(batch_size, choices, max(6, steps // 4), 2 if options.quick else 3)
    contenders = {"lockstep": partial(lockstep.step, model, batch_size, steps, options.partitions)}
    contenders |= {name: partial(peer.measure, steps) for name, peer in peers.items()}
    contenders["peak"] = lockstep.peak
    common.note(f"{model}, batch {batch_size}: measuring")
    results = common.alternate(contenders, 3 if options.quick else 9)
    report(model, lockstep.result, peers, batch_size, results.pop("peak"), results)


def report(model, shape, peers, batch_size, peaks, results):
    title = (f"{model}, batch {batch_size}: Lockstep with {shape['partitions']} partitions, "
             f"{shape['devices']} devices, {shape['numerics']}")
    common.print_rates(title, batch_size, results)
    for name, peer in peers.items():
        memory = {None: "", False: ", NCHW", True: ", channels last"}
        print(f"  {name}: {peer.settings['threads']} threads"
              f"{memory[peer.settings.get('channels_last')]}")
    ratio, best = common.ratio_to_best(results)
    seconds = statistics.median(results["lockstep"])
    rate = shape["flops_per_step"] / seconds / 1e9
    print(f"  Lockstep / {best} (median/median): {ratio:.2f}")
    print(f"  Lockstep computes {rate:.0f} of {max(peaks):.0f} GFLOP/s: "
          f"{100 * rate / max(peaks):.0f} % of the peak")
    planned, used = (shape[key] / 2**20 for key in ("planned_bytes", "used_bytes"))
    print(f"  Lockstep's memory beside the data: {used:.0f} MiB, planned {planned:.0f}: "
          f"{used / planned:.2f}")


def cost_of_exactness(lockstep, options):
    rows = []
    for batch_size in BATCH_SIZES["seed-cnn"]:
        common.note(f"batch {batch_size}: measuring 1 to {PARTITIONS[-1]} partitions")
        steps = steps_in_a_round("seed-cnn", batch_size, options.quick)
        contenders = {p: partial(lockstep.step, "seed-cnn", batch_size, steps, p)
                      for p in PARTITIONS}
        results = common.alternate(contenders, 3 if options.quick else 5)
        medians = {p: statistics.median(seconds) for p, seconds in results.items()}
        for p, median in medians.items():
            rows.append([str(batch_size), str(p), f"{1e3 * median:.3f}",
                         f"{batch_size / median:,.0f}", f"{median / medians[1]:.2f}"])
    headers = ["batch", "partitions", "ms/step", "img/s", "time against 1 partition"]
    common.print_table("Cost of exactness (Lockstep alone, median of the rounds)", headers, rows)


def main():
    options = parse()
    common.warn_if_busy()
    lockstep = Lockstep(options)
    models = [options.model] if options.model else list(BATCH_SIZES)
    for model in models:
        with contextlib.ExitStack() as stack:
            peers = peers_of(model, stack)
            for batch_size in BATCH_SIZES[model]:
                compare(lockstep, peers, model, batch_size, options)
    if "seed-cnn" in models:
        cost_of_exactness(lockstep, options)


if __name__ == "__main__":
    main()
