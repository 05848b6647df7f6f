"""What can be carried of a model, and its way to the binary and back, both as .keras files."""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
from typing import Any, Iterator, Mapping

import keras
import numpy as np

from lockstep import _binary
from lockstep._arrays import unwrapped
from lockstep._binary import LockstepError


@functools.lru_cache(maxsize=4)
def _known_layers(binary: str, changed: float) -> frozenset[str]:
    """Names of the layers that this binary knows."""
    del binary, changed  # of which the answer is
    lines = _binary.run("inspect", "--layers").splitlines()
    return frozenset(line[3:] for line in lines if line.startswith("## "))


def _is_kerases(thing: type) -> bool:
    return thing.__module__.split(".")[0] == "keras"


def _foreign_parts(config: Any, where: str) -> Iterator[str]:
    """Functions and classes in a config of Keras that Keras itself does not have."""
    if isinstance(config, Mapping):
        name, module = config.get("class_name"), config.get("module")
        if name == "__lambda__":
            yield f"{where}: a lambda"
            return
        if name == "function" and module is not None:
            if not str(module).startswith("keras"):
                yield f"{where}: the function {config['config']}"
            return
        if "registered_name" in config and not str(module).startswith("keras"):
            yield f"{where}: the class {name}"
            return
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for part in config:
            yield from _foreign_parts(part, where)


def _layer_problems(model: Any, known: frozenset[str]) -> Iterator[str]:
    for layer in model.layers:
        kind = type(layer).__name__
        called = f"layer '{layer.name}'"
        if isinstance(layer, keras.Model):
            yield from _model_problems(layer, known)
        elif not _is_kerases(type(layer)):
            yield f"{called}: the class {kind}"
        elif kind == "Lambda":
            yield f"{called}: Lambda"
        elif kind not in known and kind != "InputLayer":
            yield f"{called}: {kind}, which this binary does not know"
        else:
            yield from _foreign_parts(layer.get_config(), called)


def _model_problems(model: Any, known: frozenset[str]) -> Iterator[str]:
    if _is_kerases(type(model)) and hasattr(model, "layers"):
        yield from _layer_problems(model, known)
    else:
        yield (f"model '{model.name}': the class {type(model).__name__}, since its call() is code: "
               "make it of keras.Model(inputs, outputs) or keras.Sequential")


def _compile_problems(model: Any) -> Iterator[str]:
    for loss in _losses(model.loss):
        if not _is_function(loss):
            yield from _foreign_parts(keras.saving.serialize_keras_object(loss), "loss")
        elif loss.__module__.split(".")[0] != "keras":
            yield f"loss: the function {loss.__name__}"
    config = model.get_compile_config() or {}
    for key in ("metrics", "weighted_metrics"):
        for metric in _listed(config.get(key)):
            yield from _foreign_parts(metric, "metric")
    yield from _foreign_parts(config.get("optimizer"), "optimizer")


def _is_function(loss: Any) -> bool:
    return callable(loss) and hasattr(loss, "__name__")


def _losses(loss: Any) -> list[Any]:
    """Those of each output."""
    if isinstance(loss, Mapping):
        loss = list(loss.values())
    return list(loss) if isinstance(loss, (list, tuple)) else [loss]


def _listed(metrics: Any) -> list[Any]:
    if metrics is None:
        return []
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def check(model: Any, training: bool) -> None:
    """Refuses what cannot be carried, all of it in one message, before anything starts."""
    if not isinstance(model, keras.Model):
        raise LockstepError(f"expected a Keras model, not a {type(model).__name__}")
    if training and not getattr(model, "compiled", False):
        raise LockstepError("the model is not compiled: call model.compile(optimizer, loss) first")
    binary = _binary.find_binary()
    known = _known_layers(binary, os.stat(binary).st_mtime)
    problems = list(_model_problems(model, known))
    if training:
        problems += _compile_problems(model)
    if problems:
        raise LockstepError(
            "this model cannot be carried, since no code travels and only what Keras and Lockstep "
            "both have can run: " + "; ".join(dict.fromkeys(problems)))


def build(model: Any, x: Any) -> None:
    """Makes weights and the optimizer's state, where fit() would make them at its first step."""
    if not model.built:
        shape = np.shape(unwrapped(x))
        model.build((None, *shape[1:]) if len(shape) > 1 else (None, 1))
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)


def input_names(model: Any) -> list[str]:
    """In the order of model.inputs."""
    return [tensor._keras_history.operation.name for tensor in model.inputs]


def output_names(model: Any) -> list[str]:
    """In the order of model.outputs; of a dictionary of outputs its keys, in Keras' order."""
    structure = getattr(model, "_outputs_struct", None)
    if isinstance(structure, Mapping):
        return sorted(structure)
    return [tensor._keras_history.operation.name for tensor in model.outputs]


def loss_flag(model: Any) -> str | None:
    """A loss given as one of Keras' functions goes by its name; others stand in the file."""
    return model.loss.__name__ if hasattr(model.loss, "__name__") else None


def as_outputs(model: Any, arrays: Mapping[str, Any]) -> Any:
    """Arrays by name in the form in which the model puts them out."""
    names = output_names(model)
    if isinstance(getattr(model, "_outputs_struct", None), Mapping):
        return {name: arrays[name] for name in names}
    return [arrays[name] for name in names]


def save(model: Any, path: pathlib.Path) -> None:
    """Weights, optimizer and its state, through Keras itself."""
    model.save(path)


def load(model: Any, path: str | os.PathLike[str]) -> None:
    """Sets the weights and the optimizer's state that a .keras file holds."""
    model.load_weights(path)


def digest(model: Any) -> str:
    """The SHA-256 over all weights, as the binary tells it of a run."""
    sha256 = hashlib.sha256()
    for weight in model.get_weights():
        sha256.update(np.ascontiguousarray(weight).data)
    return sha256.hexdigest()
