"""Makes tests/golden/callbacks.json: what Keras' callbacks decide.

    python tests/golden/make_callbacks.py            writes the file
    python tests/golden/make_callbacks.py --check    compares it with what Keras decides now

Needs the packages of tests/golden/requirements.txt; `./dev golden` makes an environment for it.
Each case: callbacks, the logs of some epochs, and epoch by epoch what Keras' own callbacks then do:
the learning rate of the epoch, whether training stops, the epochs that are saved, and at the end
the epoch whose weights the model has. The logs are made up: numbers that fall, stay, rise, and NaN.
"""

import math
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from golden_file import write_or_check
from keras import callbacks as kc
from keras.src.trainers.compile_utils import MetricsList

FILE = pathlib.Path(__file__).with_name("callbacks.json")
RATE = 0.01
LOSSES = {
    "falls": [0.9, 0.8, 0.7, 0.65, 0.6, 0.58],
    "rises": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "stays": [0.5] * 8,
    "bumpy": [1.0, 0.7, 0.8, 0.69, 0.72, 0.7, 0.5, 0.55, 0.56, 0.57, 0.49, 0.6],
    "slow": [1.0, 0.999, 0.998, 0.997, 0.9, 0.8999, 0.8998, 0.8, 0.8, 0.8],
    "nan": [0.9, math.nan, 0.8, math.nan, math.nan, math.nan],
    "first_nan": [math.nan, math.nan, 0.8, 0.9, 0.7],
    "bumps_late": [0.9, 0.8, 0.7, 0.9, 1.0, 0.6, 0.7, 0.8, 0.9, 0.5, 0.6, 0.7],
}
CASES = [
    [("EarlyStopping", {})],
    [("EarlyStopping", {"monitor": "loss", "patience": 2})],
    [("EarlyStopping", {"patience": 2, "restore_best_weights": True})],
    [("EarlyStopping", {"patience": 3, "min_delta": 0.05, "restore_best_weights": True})],
    [("EarlyStopping", {"patience": 1, "baseline": 0.75, "restore_best_weights": True})],
    [("EarlyStopping", {"patience": 4, "baseline": 0.4, "min_delta": -0.01})],
    [("EarlyStopping", {"patience": 1, "start_from_epoch": 3, "restore_best_weights": True})],
    [("EarlyStopping", {"monitor": "val_accuracy", "patience": 1, "restore_best_weights": True})],
    [("EarlyStopping", {"monitor": "accuracy", "mode": "min", "patience": 2})],
    [("EarlyStopping", {"mode": "max", "patience": 2, "min_delta": 0.1})],
    [("ReduceLROnPlateau", {"patience": 1})],
    [("ReduceLROnPlateau", {"patience": 0, "factor": 0.5, "min_lr": 0.002})],
    [("ReduceLROnPlateau", {"patience": 2, "factor": 0.3, "cooldown": 2, "min_delta": 0.05})],
    [("ReduceLROnPlateau", {"monitor": "accuracy", "patience": 1, "factor": 0.7})],
    [("LearningRateScheduler", {"schedule": {"0": 0.5, "2": 0.25, "5": 0.1}})],
    [("LearningRateScheduler", {"schedule": {"3": 0.5}}),
     ("ReduceLROnPlateau", {"patience": 1, "factor": 0.5})],
    [("ModelCheckpoint", {})],
    [("ModelCheckpoint", {"save_best_only": True})],
    [("ModelCheckpoint", {"save_best_only": True, "monitor": "val_accuracy",
                          "initial_value_threshold": 0.3})],
    [("EarlyStopping", {"patience": 3, "restore_best_weights": True}),
     ("ReduceLROnPlateau", {"patience": 1, "factor": 0.5}),
     ("ModelCheckpoint", {"save_best_only": True, "monitor": "loss"})],
]


class FakeModel:
    """All that these callbacks touch. Its weights are the number of epochs that they saw."""

    def __init__(self):
        self.optimizer = keras.optimizers.SGD(RATE)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.metrics = [MetricsList([accuracy])]
        self.stop_training = False
        self.epoch = -1
        self.saved = []

    def get_weights(self):
        return self.epoch

    def set_weights(self, weights):
        self.epoch = weights

    def save(self, *_args, **_kwargs):
        self.saved.append(self.epoch)


def make_callback(name, config):
    if name == "LearningRateScheduler":
        table = {int(epoch): rate for epoch, rate in config["schedule"].items()}
        return kc.LearningRateScheduler(lambda epoch, rate: table.get(epoch, rate))
    if name == "ModelCheckpoint":
        return kc.ModelCheckpoint("model.keras", **config)
    return getattr(kc, name)(**config)


def logs_of(values, epoch):
    loss = float(np.float32(values[epoch]))
    return {"loss": loss, "val_loss": float(np.float32(loss * 1.25)),
            "accuracy": float(np.float32(1 - loss / 2)),
            "val_accuracy": float(np.float32(1 - loss / 1.5))}


def live(names_and_configs, values):
    model = FakeModel()
    callbacks = [make_callback(name, config) for name, config in names_and_configs]
    for callback in callbacks:
        callback.set_model(model)
        callback.on_train_begin()
    epochs = []
    for epoch in range(len(values)):
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        model.epoch = epoch
        logs = logs_of(values, epoch)
        shown = {name: None if math.isnan(value) else value for name, value in logs.items()}
        for callback in callbacks:
            callback.on_epoch_end(epoch, logs)
        epochs.append({"logs": shown, "rate": rate, "stop": bool(model.stop_training),
                       "saved": list(model.saved)})
        if model.stop_training:
            break
    for callback in callbacks:
        callback.on_train_end()
    return {"epochs": epochs, "weights_of": model.epoch}


def golden_file():
    cases = [{"callbacks": [{"class_name": name, "config": config} for name, config in case],
              "losses": losses, **live(case, values)}
             for case in CASES for losses, values in LOSSES.items()]
    return {"keras": keras.__version__, "learning_rate": RATE, "cases": cases}


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, golden_file, (('}, {"callbacks"', '},\n{"callbacks"'),)))
