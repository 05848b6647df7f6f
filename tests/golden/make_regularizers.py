"""Makes tests/golden/regularizers.json: training steps with Keras' regularizers and constraints.

    python tests/golden/make_regularizers.py            writes the file
    python tests/golden/make_regularizers.py --check    compares it with what Keras computes now

Needs the packages of tests/golden/requirements.txt; `./dev golden` makes an environment for it. The
tensors follow the formula of make_golden.py. For each sequential model: its layers, the loss of
each step (with what is added to it), the weights behind them, and the loss that `evaluate` finds
then.
"""

import pathlib
import sys

from golden_file import write_or_check
from make_layers import config_of, made_up, rounded  # first: it chooses the backend, and float64

import keras
from keras import constraints, layers, regularizers

FILE = pathlib.Path(__file__).with_name("regularizers.json")
ROWS, STEPS, RATE = 8, 3, 0.1


def cases():
    """(layers before a Dense(2), shape of an input) by name."""
    dense, row, image = layers.Dense, (5,), (4, 3, 2)
    l1, l2, both = regularizers.L1(0.05), regularizers.L2(0.1), regularizers.L1L2(0.03, 0.02)
    frozen = dense(3, kernel_regularizer=l2)
    frozen.trainable = False
    last = layers.Flatten()
    return {
        "l1": ([dense(3, kernel_regularizer=l1)], row),
        "l2_of_all": ([dense(3, activation="tanh", kernel_regularizer=l2, bias_regularizer=both)],
                      row),
        "l1l2_convolution": ([layers.Conv2D(3, 2, kernel_regularizer=both), last], image),
        "frozen": ([frozen], row),
        "activity": ([dense(4, activity_regularizer=l2),
                      layers.ActivityRegularization(l1=0.05)], row),
        "activity_and_weights": ([dense(4, activity_regularizer=l1, kernel_regularizer=l1)], row),
        "max_norm": ([dense(3, kernel_constraint=constraints.MaxNorm(0.8))], row),
        "unit_norm": ([dense(3, kernel_constraint="UnitNorm")], row),
        "unit_norm_of_rows": ([dense(3, kernel_constraint=constraints.UnitNorm(axis=1))], row),
        "min_max_norm": ([dense(4, kernel_constraint=constraints.MinMaxNorm(0.9, 1.1, 0.5))], row),
        "non_negative": ([dense(3, kernel_constraint="NonNeg", bias_constraint="NonNeg")], row),
        "max_norm_convolution": (
            [layers.Conv2D(3, 2, kernel_constraint=constraints.MaxNorm(1, axis=[0, 1, 2]),
                           kernel_regularizer=l2), layers.Flatten()], image),
        "max_norm_middle": (
            [layers.Conv2D(3, 2, kernel_constraint=constraints.MaxNorm(0.5, axis=[1, 2])),
             layers.Flatten()], image),
        # Layers with names, so that those above keep theirs.
        "orthogonal_rows": (
            [dense(3, kernel_regularizer=regularizers.OrthogonalRegularizer(0.2), name="rows")],
            row),
        "orthogonal_columns": (
            [dense(4, kernel_regularizer=regularizers.OrthogonalRegularizer(0.3, "columns"),
                   bias_regularizer=l2, name="columns"),
             dense(3, kernel_regularizer="orthogonal_regularizer", name="by_name")], row),
    }


def golden(chain, shape):
    chain = [*chain, layers.Dense(2)]
    model = keras.Sequential([keras.Input(shape), *chain])
    model.compile(keras.optimizers.SGD(RATE), loss="mean_squared_error")
    for number, weight in enumerate(model.weights):
        weight.assign(2 * made_up(500 + number, tuple(weight.shape)) - 1)
    x, y = 2 * made_up(1000, (ROWS, *shape)) - 1, made_up(2000, (ROWS, 2))
    losses = []
    for _ in range(STEPS):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(x, y)))
    model.reset_metrics()
    return {
        "layers": [{"class_name": type(layer).__name__, "config": config_of(layer)}
                   for layer in chain],
        "input_shape": list(shape),
        "losses": rounded(losses),
        "evaluated": rounded([model.test_on_batch(x, y)])[0],
        "weights": [value for weight in model.weights for value in rounded(weight)],
    }


def golden_file():
    keras.config.set_floatx("float64")
    made = {name: golden(*case) for name, case in cases().items()}
    return {"rows": ROWS, "learning_rate": RATE, "keras": keras.__version__, "cases": made}


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, golden_file))
