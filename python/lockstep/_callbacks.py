"""Keras' callbacks around a cluster: those that watch, and may say stop, run here in Python."""

from __future__ import annotations

import warnings
from typing import Any, Iterable, Sequence

import keras

from lockstep import _model
from lockstep._binary import LockstepError

_Callback = keras.callbacks.Callback
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
_EPOCH_HOOKS = ("on_epoch_begin", "on_epoch_end")
# Keras' own that are right with thinned logs, and those whose epoch hooks read no weights.
_FINE_WITH_THINNED = ("ModelCheckpoint", "ProgbarLogger", "TerminateOnNaN")
_READ_NO_WEIGHTS = ("History", "CSVLogger", "ProgbarLogger", "RemoteMonitor", "TerminateOnNaN")
_REFUSED = {
    "LearningRateScheduler": "give the optimizer a schedule of keras.optimizers.schedules",
    "ReduceLROnPlateau": "give the optimizer a schedule of keras.optimizers.schedules",
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
    """The callbacks as a list. Refuses, all in one message, those that must change training."""
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


def warn_of_thinned(callbacks: Sequence[Any]) -> None:
    """Once, where batch hooks will not be called for each batch."""
    names = [type(callback).__name__ for callback in callbacks
             if _overrides(callback, _BATCH_HOOKS) and not _is_own(callback, _FINE_WITH_THINNED)]
    if names:
        warnings.warn(
            f"{', '.join(names)}: batch hooks are called about ten times a second, not for each "
            "batch, with the epoch's means so far, and the weights of the last epoch's end",
            stacklevel=4)


class _Settings:
    """What a hook must not change, since the cluster goes on without it."""

    def __init__(self, model: Any):
        self.weights = _model.digest(model)
        self.learning_rate = self._learning_rate(model)

    @staticmethod
    def _learning_rate(model: Any) -> float:
        return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))

    def check(self, model: Any) -> None:
        changed = [what for what, same in (
            ("weights", self.weights == _model.digest(model)),
            ("learning rate", self.learning_rate == self._learning_rate(model))) if not same]
        if changed:
            raise LockstepError(
                f"a callback changed the {' and the '.join(changed)} at an epoch's end, which "
                "cannot be carried to the cluster yet: use a schedule, or train with several fits")


class Hooks:
    """Calls the callbacks as Keras' fit() does. `first` is the number of the first epoch."""

    def __init__(self, model: Any, callbacks: list[Any], first: int, epochs: int, steps: int,
                 verbose: int):
        self._model = model
        self._first = first
        self._count = epochs - first
        self.needs_weights = need_weights(callbacks)
        self._list = keras.callbacks.CallbackList(
            callbacks, add_history=True, add_progbar=verbose != 0, model=model, verbose=verbose,
            epochs=epochs, steps=steps)

    def begin(self) -> None:
        """Before anything starts: what on_train_begin changes is what training begins with."""
        self._model.stop_training = False
        self._list.on_train_begin()

    def begin_epoch(self, epoch: int) -> None:
        if epoch < self._count and not self._model.stop_training:
            self._list.on_epoch_begin(self._first + epoch)

    def batch(self, batch: int, logs: dict[str, float]) -> None:
        self._list.on_train_batch_begin(batch)
        self._list.on_train_batch_end(batch, logs)

    def epoch(self, epoch: int, logs: dict[str, float]) -> None:
        before = _Settings(self._model) if self.needs_weights else None
        self._list.on_epoch_end(self._first + epoch, logs)
        self.begin_epoch(epoch + 1)
        if before and not self._model.stop_training:
            before.check(self._model)

    def end(self, logs: dict[str, float]) -> Any:
        """The History."""
        self._list.on_train_end(logs)
        return self._model.history
