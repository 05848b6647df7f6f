"""Makes tests/golden/objectives.json: what training minimizes where rows do not count alike.

    python tests/golden/make_objectives.py            writes the file
    python tests/golden/make_objectives.py --check    compares it with what Keras computes now

Needs the packages of tests/golden/requirements.txt; `./dev golden` makes an environment for it. The
tensors follow the formula of make_golden.py. For each model, with the reductions of its losses, its
masks and sample weights: what `evaluate` finds over batches of which the last is smaller, and the
loss's gradients by all weights in the first of them.
"""

import json
import pathlib
import sys

from golden_file import write_or_check
from make_layers import made_up, rounded  # first: it chooses the backend, and float64

import jax
import keras
import numpy as np
from keras import layers, losses

FILE = pathlib.Path(__file__).with_name("objectives.json")
ROWS, BATCH, STEPS, WORDS = 11, 4, 5, 4
REDUCTIONS = ("sum_over_batch_size", "sum", "mean_with_sample_weight")


def words(second_row=0):
    """Rows of words, of which 0 is none."""
    x = np.floor(WORDS * made_up(1000, (ROWS, STEPS)))
    x[1] = second_row
    return x


def sequences(mask, loss, classes=3, metrics=(), weighted=()):
    model = keras.Sequential([keras.Input((STEPS,)), layers.Embedding(WORDS, 2, mask_zero=mask),
                              layers.Dense(classes, activation="softmax")])
    model.compile("sgd", loss, metrics=list(metrics), weighted_metrics=list(weighted))
    return model, words()


def steps_of_features(loss, weighted=()):
    """Masking: steps whose entries are all 0.5 are none."""
    model = keras.Sequential([keras.Input((STEPS, 2)), layers.Masking(0.5), layers.Dense(1)])
    model.compile("sgd", loss, metrics=["mae"], weighted_metrics=list(weighted))
    x = made_up(1000, (ROWS, STEPS, 2))
    x[x[:, :, 0] < 0.4] = 0.5
    return model, x


def several(first, second):
    """One output with a mask, one where it ends, and one that nothing is asked of."""
    x = keras.Input((STEPS,), name="words")
    embedded = layers.Embedding(WORDS, 3, mask_zero=True)(x)
    each = layers.Dense(2, name="each")(embedded)
    whole = layers.Dense(1, name="whole")(layers.GlobalAveragePooling1D()(embedded))
    rest = layers.Dense(2, name="rest")(embedded)
    model = keras.Model(x, [each, whole, rest])
    model.compile("sgd", [first, second, None], loss_weights=[0.5, 2.0, 1.0],
                  metrics=[["mae"], None, None],
                  weighted_metrics=[["mae", "mse"], ["mae"], None])
    return model, words(2)


def cases():
    """(model and inputs, kinds of targets, how many sample weights, or those of steps) by name."""
    found = {}
    mse, cross = losses.MeanSquaredError, losses.SparseCategoricalCrossentropy
    for reduction in REDUCTIONS:
        for weights in (0, 1):
            ending = f"{reduction}{'_weighted' if weights else ''}"
            loss = mse(reduction=reduction)
            asked = {"metrics": ["mae", keras.metrics.RootMeanSquaredError(), "accuracy"],
                     "weighted": ["mse", keras.metrics.Precision(0.3, name="precision")]}
            found[f"mask_{ending}"] = sequences(True, loss, **asked), "numbers", weights
            found[f"rows_{ending}"] = sequences(False, loss, **asked), "numbers", weights
            found[f"several_{ending}"] = (several(mse(reduction=reduction), losses.Huber()),
                                          "several", weights)
            found[f"several_other_{ending}"] = (several(losses.Huber(), mse(reduction=reduction)),
                                                "several", 2 * weights)
    found["mean"] = sequences(True, mse(reduction="mean")), "numbers", 1
    found["classes"] = sequences(True, "sparse_categorical_crossentropy",
                                 metrics=["accuracy"]), "classes", 0
    found["classes_weighted"] = (
        sequences(True, cross(reduction="sum"), metrics=["accuracy"],
                  weighted=["accuracy", "sparse_categorical_crossentropy"]), "classes", 1)
    found["features"] = steps_of_features("mse", weighted=["mse"]), "one", 0
    found["features_weighted"] = (
        steps_of_features(losses.Huber(reduction="mean_with_sample_weight"), weighted=["mse"]),
        "one", 1)
    for reduction in REDUCTIONS:  # new ones last: Keras numbers its layers' names
        weighted = ["mse", "accuracy"]
        found[f"steps_{reduction}"] = (
            sequences(False, mse(reduction=reduction), metrics=["mae"], weighted=weighted),
            "numbers", "steps")
        if reduction != "mean_with_sample_weight":
            found[f"mask_steps_{reduction}"] = (
                sequences(True, mse(reduction=reduction), metrics=["mae"], weighted=weighted),
                "numbers", "steps")
    found["features_steps"] = steps_of_features("mse", weighted=["mae"]), "one", "steps"
    return found


def targets_of(kind):
    numbers = np.floor(2 * made_up(2000, (ROWS, STEPS, 3)))
    return {"numbers": [numbers], "classes": [np.floor(3 * made_up(2100, (ROWS, STEPS)))],
            "one": [made_up(2000, (ROWS, STEPS, 1))],
            "several": [made_up(2200, (ROWS, STEPS, 2)), made_up(2300, (ROWS, 1))]}[kind]


def as_keras_has_them(values, y):
    """Weights of rows with an axis for each of the targets' but the last, which Keras needs."""
    return values.reshape((ROWS,) + (1,) * max(0, y.ndim - 2)) if y.shape[-1] != STEPS else \
        values.reshape((ROWS, 1))


def gradients(model, x, y, weights):
    """Of the first batch."""
    first = slice(0, BATCH)
    y = [value[first] for value in y] if isinstance(y, list) else y[first]
    if isinstance(weights, list):
        weights = [value[first] for value in weights]
    elif weights is not None:
        weights = weights[first]
    frozen = [variable.value for variable in model.non_trainable_variables]

    def loss_of(trainable):
        y_pred, _ = model.stateless_call(trainable, frozen, x[first], training=True)
        return model.compute_loss(x[first], y, y_pred, weights)

    return jax.grad(loss_of)([variable.value for variable in model.trainable_variables])


def golden(made, kind, count):
    model, x = made
    for number, weight in enumerate(model.weights):
        weight.assign(2 * made_up(500 + number, tuple(weight.shape)) - 1)
    y = targets_of(kind)
    steps = count == "steps"
    shape = (ROWS, STEPS) if steps else (ROWS,)
    drawn = [np.round(3 * made_up(5000 + number, shape)) / 2
             for number in range(1 if steps else count)]
    result = {"config": json.loads(model.to_json()), "x": rounded(x), "x_shape": list(x.shape[1:]),
              "y": [rounded(value) for value in y], "y_shapes": [list(v.shape[1:]) for v in y],
              "sample_weights": [rounded(values) for values in drawn]}
    compiled = model.get_compile_config()
    for key in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        result[key] = compiled[key]
    weights = None
    if steps:
        weights = drawn
    elif drawn:
        weights = [as_keras_has_them(drawn[min(i, count - 1)], value) for i, value in enumerate(y)]
    if kind == "several":  # Keras wants something for each
        y = [*y, y[0]]
        weights = weights and [*weights, weights[0]]
    else:
        y, weights = y[0], weights and weights[0]
    evaluated = model.evaluate(x, y, sample_weight=weights, batch_size=BATCH, verbose=0,
                               return_dict=True)
    result["evaluated"] = {name: rounded([value])[0] for name, value in evaluated.items()}
    result["gradients"] = [rounded(value) for value in gradients(model, x, y, weights)]
    return result


def golden_file():
    keras.config.set_floatx("float64")
    made = {name: golden(*case) for name, case in cases().items()}
    text = json.dumps({"rows": ROWS, "batch_size": BATCH, "keras": keras.__version__,
                       "cases": made})
    return json.loads(text.replace("float64", "float32"))


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, golden_file))
