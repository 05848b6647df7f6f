"""evaluate and predict: what the binary measures of a model, and what the model puts out."""

from __future__ import annotations

import json
import math
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from lockstep import _binary, _model
from lockstep._arrays import write_data


def _prepare(folder: pathlib.Path, model: Any, x: Any, training: bool, *rest: Any) -> int:
    _model.check(model, training)
    _model.build(model, x)
    rows = write_data(folder / "data", _model.input_names(model), _model.output_names(model), x,
                      *rest)
    _model.save(model, folder / "model.keras")
    return rows


def evaluate(model: Any, x: Any, y: Any, *, nodes: int | str = 1, batch_size: int = 32,
             sample_weight: Any = None, verbose: int | str = "auto", return_dict: bool = False,
             numerics: str | None = None) -> Any:
    """Loss and metrics of a compiled model, as `model.evaluate` returns them.

    Args as Keras has them; `nodes` is how many processes share the batches, which changes no bit;
    `numerics` as `lockstep.fit`. Raises LockstepError.
    """
    with tempfile.TemporaryDirectory(prefix="lockstep-") as name:
        folder = pathlib.Path(name)
        rows = _prepare(folder, model, x, True, y, sample_weight)
        output = _binary.run("evaluate", *_binary.flags({
            "model": folder / "model.keras", "data": folder / "data", "batch_size": batch_size,
            "nodes": nodes, "loss": _model.loss_flag(model), "numerics": numerics, "events": "-"}))
    told = json.loads(output.splitlines()[0])
    logs = {key: _number(told["logs"][key]) for key in told["metrics"]}
    if verbose != 0:
        steps = -(-rows // batch_size)
        keras.utils.Progbar(steps, verbose=1 if verbose == "auto" else verbose).update(
            steps, list(logs.items()), finalize=True)
    if return_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def predict(model: Any, x: Any, *, nodes: int | str = 1, batch_size: int = 32,
            numerics: str | None = None) -> Any:
    """What the model puts out for each row of x: float32, as `model.predict` returns it.

    `nodes` processes share the batches, which changes no bit. Raises LockstepError.
    """
    with tempfile.TemporaryDirectory(prefix="lockstep-") as name:
        folder = pathlib.Path(name)
        _prepare(folder, model, x, False)
        several = len(model.outputs) > 1
        output = folder / ("predictions.npz" if several else "predictions.npy")
        _binary.run("predict", *_binary.flags({
            "model": folder / "model.keras", "data": folder / "data", "batch_size": batch_size,
            "nodes": nodes, "numerics": numerics, "output": output}))
        if not several:
            return np.load(output)
        with np.load(output) as arrays:
            return _model.as_outputs(model, arrays)
