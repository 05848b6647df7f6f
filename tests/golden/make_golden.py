"""Write the golden files that the C++ tests compare with: what Keras computes in float64.

    python3 -m venv build/venv-golden
    build/venv-golden/bin/pip install -r tests/golden/requirements.txt
    build/venv-golden/bin/python tests/golden/make_golden.py

Weights and data follow a formula (see uniform below) that the C++ tests compute as well, so the
files hold samples only. Weights, pixels and biases are rounded to float32 before Keras sees them.
"""

import argparse
import json
import math
import os
import pathlib

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import keras
import numpy as np
from keras import layers

ROWS = 13
STEPS = 10
SAMPLES = 256
CLASSES = 10
IMAGE = (28, 28, 1)
PIXEL_TENSOR = 1000
LABEL_TENSOR = 2000
MASK64 = (1 << 64) - 1


def mix64(z):
    z = z ^ (z >> np.uint64(30))
    z = z * np.uint64(0xBF58476D1CE4E5B9)
    z = z ^ (z >> np.uint64(27))
    z = z * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(tensor, count):
    """Elements 0..count-1 of a tensor: multiples of 2^-24 in [0, 1)."""
    start = (tensor * 0x9E3779B97F4A7C15 + 1) & MASK64
    z = np.arange(count, dtype=np.uint64) + np.uint64(start)
    return (mix64(z) >> np.uint64(40)).astype(np.float64) / 2.0**24


def round_to_float32(values):
    return values.astype(np.float32).astype(np.float64)


def initial_weight(number, shape):
    centred = 2.0 * uniform(number, math.prod(shape)) - 1.0
    scale = 0.05
    if len(shape) > 1:
        receptive = math.prod(shape[:-2])
        scale = math.sqrt(6.0 / (receptive * shape[-2] + receptive * shape[-1]))
    return round_to_float32(centred * scale).reshape(shape)


def batch():
    pixels = math.prod(IMAGE)
    x = np.stack([uniform(PIXEL_TENSOR + row, pixels) for row in range(ROWS)])
    y = [int(uniform(LABEL_TENSOR + row, 1)[0] * CLASSES) for row in range(ROWS)]
    return round_to_float32(x).reshape((ROWS, *IMAGE)), np.array(y, dtype=np.int32)


def seed_cnn():
    return [
        layers.Conv2D(4, 3, activation="relu"),
        layers.Conv2D(8, 3, activation="relu"),
        layers.Conv2D(12, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.Dense(CLASSES, activation="softmax"),
    ]


def mlp():
    return [
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.Dense(128, activation="relu"),
        layers.Dense(CLASSES, activation="softmax"),
    ]


def lenet():
    return [
        layers.Conv2D(6, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(16, 5, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(120, activation="relu"),
        layers.Dense(84, activation="relu"),
        layers.Dropout(0.0),
        layers.Dense(CLASSES, activation="softmax"),
    ]


MODELS = {"seed-cnn": seed_cnn, "mlp": mlp, "lenet": lenet}
OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "sgd": lambda: keras.optimizers.SGD(learning_rate=0.01, momentum=0.9, nesterov=False),
}


def build(name):
    keras.utils.clear_session()
    model = keras.Sequential([keras.Input(IMAGE), *MODELS[name]()], name=name)
    initial = [initial_weight(k, w.shape) for k, w in enumerate(model.get_weights())]
    model.set_weights(initial)
    return model, initial


def loss_and_gradients(model, x, y):
    """The model's mean loss on the batch and its gradient for every trainable variable."""
    loss = keras.losses.SparseCategoricalCrossentropy()
    fixed = [variable.value for variable in model.non_trainable_variables]

    def objective(trainable):
        predictions, _ = model.stateless_call(trainable, fixed, x, training=True)
        return loss(y, predictions)

    value_and_gradient = jax.jit(jax.value_and_grad(objective))
    return lambda: value_and_gradient([v.value for v in model.trainable_variables])


def train(name, optimizer, x, y):
    """Ten steps on the same batch: the loss before each, and the weights after the last."""
    model, _ = build(name)
    compute = loss_and_gradients(model, x, y)
    losses = []
    for _ in range(STEPS):
        loss, gradients = compute()
        losses.append(float(loss))
        optimizer.apply(gradients, model.trainable_variables)
    return losses, model.get_weights()


def sampled_indices(size):
    if size <= SAMPLES:
        return list(range(size))
    return [i * (size - 1) // (SAMPLES - 1) for i in range(SAMPLES)]


def describe(variable, initial, gradient, trained):
    indices = sampled_indices(initial.size)
    entry = {
        "name": variable.path,
        "shape": list(initial.shape),
        "indices": indices,
        "initial": initial.ravel()[indices],
        "gradient": gradient.ravel()[indices],
        "gradient_max_abs": np.abs(gradient).max(),
        "gradient_norm": np.linalg.norm(gradient),
    }
    for optimizer, weights in trained.items():
        entry[optimizer] = weights.ravel()[indices]
        entry[f"{optimizer}_max_abs"] = np.abs(weights).max()
    return entry


def golden(name):
    x, y = batch()
    model, initial = build(name)
    assert all(variable.dtype == "float64" for variable in model.variables)
    loss, gradients = loss_and_gradients(model, x, y)()
    forward = np.asarray(model(x, training=False))
    runs = {key: train(name, make(), x, y) for key, make in OPTIMIZERS.items()}
    result = {
        "model": name,
        "keras_version": keras.__version__,
        "rows": ROWS,
        "loss": float(loss),
        "forward": list(forward),
    }
    for key, (losses, _) in runs.items():
        result[f"{key}_loss"] = losses
    result["tensors"] = []
    for k, variable in enumerate(model.trainable_variables):
        trained = {key: weights[k] for key, (_, weights) in runs.items()}
        result["tensors"].append(
            describe(variable, initial[k], np.asarray(gradients[k]), trained))
    return result


def to_json(value, indent=0):
    """JSON with nine significant digits and each list of numbers on one line."""
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, (str, int)):
        return json.dumps(value)
    inner, outer = "\n" + " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {to_json(v, indent + 1)}" for k, v in value.items()]
        return "{" + inner + ("," + inner).join(items) + outer + "}"
    items = [to_json(item, indent + 1) for item in value]
    if all(isinstance(item, (int, float)) for item in value):
        return "[" + ",".join(items) + "]"
    return "[" + inner + ("," + inner).join(items) + outer + "]"


def main():
    parser = argparse.ArgumentParser(description="Write the golden files from Keras.")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    keras.config.set_floatx("float64")
    for name in arguments.models:
        path = arguments.output / f"{name}.json"
        path.write_text(to_json(golden(name)) + "\n")
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
