"""lockstep.fit beside Keras' own fit: the same model, data and epochs; accuracies, times, ratio.

    python tests/bench/fit.py --lockstep build/release/lockstep --data FOLDER_OF_MNIST

The times are those of whole calls: Keras' with tracing, ours with processes and files.
"""
import argparse
import gzip
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras  # noqa: E402  the backend is chosen first
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

import lockstep  # noqa: E402


def read_idx(path, offset):
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


def mnist(folder, name):
    """Images as (rows, 28, 28, 1) in 0…1, labels."""
    x = read_idx(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    return x.astype("float32") / 255, read_idx(folder / f"{name}-labels-idx1-ubyte.gz", 8)


def make_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        layers.Conv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.25),
        layers.Dense(10, activation="softmax"),
    ])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lockstep", required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["LOCKSTEP_BINARY"] = os.path.abspath(arguments.lockstep)
    train, test = mnist(arguments.data, "train"), mnist(arguments.data, "t10k")
    how = {"epochs": arguments.epochs, "batch_size": 64, "verbose": 0}
    result = {"backend": keras.config.backend(), **vars(arguments), "data": str(arguments.data)}
    fits = {"keras": lambda model: model.fit(*train, **how),
            "lockstep": lambda model: lockstep.fit(model, *train, nodes=arguments.nodes, **how)}
    for name, fit in fits.items():
        model = make_model()
        begin = time.monotonic()
        fit(model)
        seconds = time.monotonic() - begin
        accuracy = model.evaluate(*test, verbose=0)[1]
        result[name] = {"seconds": round(seconds, 2), "accuracy": round(accuracy, 4)}
    result["keras_to_lockstep"] = round(
        result["keras"]["seconds"] / result["lockstep"]["seconds"], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
