"""Check a run's ledger: every epoch trains each sample once, in the order that the seed gives.

    python tests/interop/check_ledger.py LEDGER --rows N --batch-size B --epochs E \
        --partitions P --seed S [--no-shuffle]

The ledger holds JSON lines {"epoch", "step", "partition", "samples"} in any order. Steps count
over the whole job; a partition without rows may be absent.
"""

import argparse
import json
import sys

MASK64 = (1 << 64) - 1
SEED_SALT = 0x4C6F636B73746570
ROUNDS = 8


def mix64(z):
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & MASK64
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & MASK64
    return z ^ (z >> 31)


def derive(seed, a, b):
    z = mix64((seed ^ SEED_SALT) & MASK64)
    z = mix64((z + a) & MASK64)
    return mix64((z + b) & MASK64)


def permutation(rows, seed, epoch):
    """The epoch's order: a Feistel network, applied again while it leaves the range."""
    bits = (rows - 1).bit_length()
    half = max(1, (bits + 1) // 2)
    mask = (1 << half) - 1
    keys = [derive(seed, epoch, r) for r in range(ROUNDS)]

    def permute(x):
        while True:
            left, right = x >> half, x & mask
            for key in keys:
                left, right = right, (left ^ mix64(right ^ key)) & mask
            x = left << half | right
            if x < rows:
                return x

    return [permute(i) for i in range(rows)]


def expected(options):
    """(epoch, step, partition) and its samples, without the empty partitions."""
    result = {}
    step = 0
    for epoch in range(options.epochs):
        order = list(range(options.rows))
        if options.shuffle:
            order = permutation(options.rows, options.seed, epoch)
        for start in range(0, options.rows, options.batch_size):
            batch = order[start:start + options.batch_size]
            cuts = [p * len(batch) // options.partitions for p in range(options.partitions + 1)]
            for p in range(options.partitions):
                if cuts[p] < cuts[p + 1]:
                    result[epoch, step, p] = batch[cuts[p]:cuts[p + 1]]
            step += 1
    return result


def read_ledger(path):
    entries = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                key = entry["epoch"], entry["step"], entry["partition"]
                samples = entry["samples"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                sys.exit(f"line {number}: not an entry of a ledger: {error!r}")
            if key in entries:
                sys.exit(f"line {number}: a second entry for {describe(key)}")
            if samples:
                entries[key] = samples
    return entries


def describe(key):
    return "epoch {}, step {}, partition {}".format(*key)


def compare(found, wanted):
    for key in sorted(wanted.keys() | found.keys()):
        if key not in found:
            sys.exit(f"{describe(key)}: missing; expected samples {wanted[key]}")
        if key not in wanted:
            sys.exit(f"{describe(key)}: should hold no samples, has {found[key]}")
        if found[key] != wanted[key]:
            sys.exit(f"{describe(key)}: expected samples {wanted[key]}, has {found[key]}")


def check_once(found, options):
    """Independent of the order: each epoch names every row once."""
    seen = {epoch: [] for epoch in range(options.epochs)}
    for (epoch, _, _), samples in found.items():
        seen[epoch] += samples
    for epoch, samples in seen.items():
        if sorted(samples) != list(range(options.rows)):
            sys.exit(f"epoch {epoch}: the samples are not rows 0 to {options.rows - 1}, once each")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ledger")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--no-shuffle", dest="shuffle", action="store_false")
    options = parser.parse_args()
    wanted = expected(options)
    found = read_ledger(options.ledger)
    compare(found, wanted)
    check_once(found, options)
    print(f"{options.ledger}: {options.epochs} epochs of {options.rows} samples, "
          f"{len(found)} entries, each sample once and in order")


if __name__ == "__main__":
    main()
