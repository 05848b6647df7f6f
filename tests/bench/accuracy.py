"""ResNet-20 on CIFAR-10: lockstep.fit beside Keras' own fit, from the same initial weights.

    python tests/bench/accuracy.py --lockstep build/release/lockstep --data FOLDER [--rows N]

FOLDER holds TFRecord shards train-*.tfrecord.gz and test-*.tfrecord.gz with JPEG images. First the
losses of 20 steps on the same rows in the same order, one partition; then the accuracy on the test
images of some seeds, trained on the same rows in the same order. The learning rate falls to
nothing: at a high one, accuracies after few epochs are chance. Ends with 1 where the means differ
by more than two points.
"""
import gzip
import io
import os
import pathlib
import statistics
import struct
import sys
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "bench" / "peers")]
os.environ.setdefault("KERAS_BACKEND", "torch")

import common  # noqa: E402
import keras  # noqa: E402  the backend is chosen first
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from resnet import resnet20  # noqa: E402

import lockstep  # noqa: E402

STEPS = 20
BATCH = 128
POINTS = 2.0


def records(path):
    """The records of a TFRecord file: length, its checksum, bytes, their checksum."""
    data = gzip.decompress(path.read_bytes())
    at = 0
    while at < len(data):
        size, = struct.unpack_from("<Q", data, at)
        yield data[at + 12:at + 12 + size]
        at += 16 + size


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    """(number, value) of each field of a Protocol Buffers message; of integers and bytes."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        value, at = varint(data, at)
        if tag & 7 == 2:
            value, at = data[at:at + value], at + value
        yield tag >> 3, value


def features(example):
    """tf.train.Example: name -> the first value of its list."""
    found = {}
    for _, all_features in fields(example):
        for _, entry in fields(all_features):
            key, feature = (value for _, value in fields(entry))
            (_, values), = fields(feature)
            _, first = next(fields(values))
            packed = key == b"image/class/label" and isinstance(first, bytes)
            found[key.decode()] = varint(first, 0)[0] if packed else first
    return found


def load(folder, split, rows):
    """Images as (rows, 32, 32, 3) in 0…1, labels."""
    x, y = [], []
    for path in sorted(folder.glob(f"{split}-*.tfrecord.gz")):
        for record in records(path):
            if len(x) == rows:
                break
            example = features(record)
            x.append(np.asarray(Image.open(io.BytesIO(example["image/encoded"]))))
            y.append(example["image/class/label"])
    if not x:
        sys.exit(f"no {split}-*.tfrecord.gz with images in '{folder}'; name the folder of CIFAR-10")
    return np.stack(x).astype("float32") / 255, np.array(y)


def new_model(seed, rate=1e-3):
    keras.utils.set_random_seed(seed)
    model = resnet20(10)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy",
                  metrics=["accuracy"])
    return model


def first_steps(x, y):
    theirs, ours = new_model(0), new_model(0)
    rows = []
    for step in range(min(STEPS, len(x) // BATCH)):
        part = slice(step * BATCH, (step + 1) * BATCH)
        loss = theirs.train_on_batch(x[part], y[part], return_dict=True)["loss"]
        theirs.reset_metrics()
        history = lockstep.fit(ours, x[part], y[part], batch_size=BATCH, shuffle=False,
                               partitions=1, verbose=0)
        mine = history.history["loss"][0]
        rows.append([str(step), f"{loss:.6f}", f"{mine:.6f}", f"{abs(mine / loss - 1):.1e}"])
    common.print_table(f"Loss of a step, batch {BATCH}, one partition",
                       ["step", "Keras", "Lockstep", "difference"], rows)


def accuracies(train, test, options):
    rows, found = [], {"Keras": [], "Lockstep": []}
    how = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    fits = {"Keras": lambda model, x, y: model.fit(x, y, **how),
            "Lockstep": lambda model, x, y: lockstep.fit(model, x, y, partitions=1, **how)}
    steps = -(-options.epochs * len(train[0]) // BATCH)
    for seed in range(options.seeds):
        row = [str(seed)]
        random = np.random.default_rng(seed)
        order = [random.permutation(len(train[0])) for _ in range(options.epochs)]
        x, y = (values[np.concatenate(order)] for values in train)  # all epochs, end to end
        for name, fit in fits.items():
            model = new_model(seed, keras.optimizers.schedules.CosineDecay(1e-3, steps))
            begin = time.monotonic()
            fit(model, x, y)
            seconds = time.monotonic() - begin
            found[name].append(100 * model.evaluate(*test, verbose=0, batch_size=500)[1])
            row += [f"{found[name][-1]:.2f}", f"{seconds:.0f}"]
            common.note(f"seed {seed}: {name} {found[name][-1]:.2f} %, {seconds:.0f} s")
        rows.append(row)
    means = {name: statistics.mean(values) for name, values in found.items()}
    rows.append(["mean", f"{means['Keras']:.2f}", "", f"{means['Lockstep']:.2f}", ""])
    common.print_table(
        f"Accuracy on {len(test[0])} test images after {options.epochs} epochs of {len(train[0])}",
        ["seed", "Keras %", "seconds", "Lockstep %", "seconds"], rows)
    return abs(means["Keras"] - means["Lockstep"])


def main():
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=int, help="training images, if not all")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = options.rows or (10_000 if options.quick else None)
    warnings.filterwarnings("ignore", message=".*will idle")  # one partition is what is compared
    os.environ["LOCKSTEP_BINARY"] = os.path.abspath(options.lockstep)
    print(f"Keras {keras.__version__} with {keras.config.backend()}")
    train, test = load(options.data, "train", rows), load(options.data, "test", None)
    first_steps(*train)
    apart = accuracies(train, test, options)
    print(f"  The means differ by {apart:.2f} points; at most {POINTS:.0f} are expected")
    sys.exit(apart > POINTS)


if __name__ == "__main__":
    main()
