"""Keras' callbacks around a cluster: they run here in Python, and decide at the ends of epochs."""

from __future__ import annotations

import math
import warnings
from typing import Any, Iterable, Sequence

import keras

from lockstep import _model
from lockstep._binary import LockstepError

_Callback = keras.callbacks.Callback
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
_EPOCH_HOOKS = ("on_epoch_begin", "on_epoch_end")
# Keras' own that are right with thinned logs, those that only watch, and those that decide without
# a look at the weights. TerminateOnNaN decides within an epoch, where only the nodes can.
_FINE_WITH_THINNED = ("ModelCheckpoint", "ProgbarLogger", "TerminateOnNaN")
_WATCHERS = ("History", "CSVLogger", "ProgbarLogger", "RemoteMonitor", "TerminateOnNaN")
_READ_NO_WEIGHTS = (*_WATCHERS, "LearningRateScheduler", "ReduceLROnPlateau")
_REFUSED = {
    "BackupAndRestore": "a run keeps checkpoints by itself: 'lockstep train --resume' goes on",
    "SwapEMAWeights": "it changes weights while the cluster trains: leave it out",
}


def _overrides(callback: Any, hooks: Iterable[str]) -> bool:
    return any(not getattr(getattr(callback, hook), "_is_default", False) for hook in hooks)


def _is_own(callback: Any, names: Sequence[str]) -> bool:
    """One of Keras' classes, itself."""
    kind = type(callback)
    return kind.__module__.split(".")[0] == "keras" and kind.__name__ in names


def check(callbacks: Any) -> list[Any]:
    """The callbacks as a list. Refuses, all in one message, those that cannot be carried."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise LockstepError("callbacks: give a list of callbacks")
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
    problems = []
    for callback in given:
        if not isinstance(callback, _Callback):
            problems.append(f"{type(callback).__name__} is no callback of Keras")
        for kind in type(callback).__mro__:
            if kind.__module__.split(".")[0] == "keras" and kind.__name__ in _REFUSED:
                problems.append(f"{type(callback).__name__} cannot be carried yet: "
                                f"{_REFUSED[kind.__name__]}")
        if isinstance(getattr(callback, "save_freq", "epoch"), int):
            problems.append(f"{type(callback).__name__} saves within an epoch, where only the "
                            "nodes have the weights: save_freq='epoch'")
    if problems:
        raise LockstepError("callbacks: " + "; ".join(problems))
    return list(given)


def need_weights(callbacks: Sequence[Any]) -> bool:
    """Whether one may look at the model's weights between epochs."""
    for callback in callbacks:
        if _is_own(callback, _READ_NO_WEIGHTS):
            continue
        if _is_own(callback, ("EarlyStopping",)) and not callback.restore_best_weights:
            continue
        if _overrides(callback, _EPOCH_HOOKS):
            return True
    return False


def decide(callbacks: Sequence[Any]) -> bool:
    """Whether one may decide something at an epoch's end, which the nodes then wait for."""
    return any(_overrides(callback, (*_EPOCH_HOOKS, *_BATCH_HOOKS))
               and not _is_own(callback, _WATCHERS) for callback in callbacks)


def of_the_cluster(callbacks: Sequence[Any]) -> str | None:
    """Those that the nodes must have too, as `lockstep train --callbacks` takes them."""
    carried = any(isinstance(callback, keras.callbacks.TerminateOnNaN) for callback in callbacks)
    return "TerminateOnNaN" if carried else None


def _thinned(callbacks: Sequence[Any]) -> list[str]:
    """Those whose batch hooks are not called for each batch."""
    return [type(callback).__name__ for callback in callbacks
            if _overrides(callback, _BATCH_HOOKS) and not _is_own(callback, _FINE_WITH_THINNED)]


def warn_of_thinned(callbacks: Sequence[Any]) -> None:
    """Once."""
    names = _thinned(callbacks)
    if names:
        warnings.warn(
            f"{', '.join(names)}: batch hooks are called about ten times a second, not for each "
            "batch, with the epoch's means so far, and the weights of the last epoch's end",
            stacklevel=4)


def _learning_rate(model: Any) -> float | None:
    """None where it follows a schedule, and so cannot be set."""
    optimizer = model.optimizer
    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return None
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


class Hooks:
    """Calls the callbacks as Keras' fit() does. `first` is the number of the first epoch."""

    def __init__(self, model: Any, callbacks: list[Any], first: int, epochs: int, steps: int,
                 verbose: int):
        self._model = model
        self._first = first
        self._count = epochs - first
        self._rate: float | None = None  # the cluster's
        self.needs_weights = need_weights(callbacks)
        self.decides = decide(callbacks)
        self.has_batch_hooks = bool(_thinned(callbacks))
        self._ends_at_nan = of_the_cluster(callbacks) is not None
        self._list = keras.callbacks.CallbackList(
            callbacks, add_history=True, add_progbar=verbose != 0, model=model, verbose=verbose,
            epochs=epochs, steps=steps)

    def begin(self) -> bool:
        """Before anything starts: what hooks change here is what training begins with.

        False: there is nothing to train.
        """
        self._model.stop_training = False
        self._list.on_train_begin()
        if self._count == 0 or self._model.stop_training:
            return False
        self._list.on_epoch_begin(self._first)
        self._rate = _learning_rate(self._model)
        return True

    def batch(self, batch: int, logs: dict[str, float]) -> None:
        self._list.on_train_batch_begin(batch)
        self._list.on_train_batch_end(batch, logs)

    def epoch(self, epoch: int, logs: dict[str, float], digest: str | None) -> dict[str, Any]:
        """What the hooks decide. `digest`: of the weights, where they may look at them."""
        if self._ends_at_nan and not math.isfinite(logs["loss"]):
            self._model.stop_training = True  # in a batch that was not shown to hooks
        self._list.on_epoch_end(self._first + epoch, logs)
        stop = bool(self._model.stop_training)
        if epoch + 1 < self._count and not stop:
            self._list.on_epoch_begin(self._first + epoch + 1)
            stop = bool(self._model.stop_training)
        if digest and not stop and digest != _model.digest(self._model):
            raise LockstepError(
                "a callback changed the weights at an epoch's end, which cannot be carried to the "
                "cluster: train with several fits, and change them in between")
        rate = _learning_rate(self._model)
        changed = rate if rate != self._rate else None
        self._rate = rate
        return {"epoch": epoch, "stop": stop, "learning_rate": changed}

    def end(self, logs: dict[str, float]) -> Any:
        """The History."""
        self._list.on_train_end(logs)
        return self._model.history
