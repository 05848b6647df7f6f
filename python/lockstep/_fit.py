"""lockstep.fit: a Keras model, trained by a cluster on this machine."""

from __future__ import annotations

import math
import pathlib
import sys
import tempfile
import warnings
from typing import Any, Mapping

from lockstep import _binary, _model
from lockstep._arrays import write_data
from lockstep._binary import Event, LockstepError
from lockstep._callbacks import Hooks, check, of_the_cluster, warn_of_thinned


def fit(model: Any, x: Any, y: Any, *, nodes: int | str = 1, epochs: int = 1, batch_size: int = 32,
        validation_split: float = 0.0, validation_data: Any = None,
        validation_steps: int | None = None, callbacks: Any = None,
        class_weight: Mapping[int, float] | None = None, sample_weight: Any = None,
        shuffle: bool = True, initial_epoch: int = 0, seed: int = 0,
        partitions: int | None = None, numerics: str | None = None, exact: bool = True,
        verbose: int | str = "auto") -> Any:
    """Trains as `model.fit` does, on `nodes` processes, and returns Keras' History.

    The model has the trained weights and its optimizer's state afterwards. The weights depend on
    everything but `nodes`.

    Args:
        model: A compiled Sequential or functional model of layers that Lockstep knows.
        x, y: numpy arrays (memory-mapped NPY files are not copied) or pandas frames; for several
            inputs or outputs a list, or a dictionary by their names.
        nodes: How many processes, "MIN:MAX" if the job shall go on with fewer. Changes no bit.
        batch_size: Rows of a batch, over all nodes.
        validation_data: (x, y) or (x, y, sample_weight). validation_split, validation_steps,
            class_weight, sample_weight, epochs, verbose as Keras has them. Sample weights of
            several outputs: one array for all, or a list or a dictionary by their names.
        callbacks: Keras' callbacks. They are called here; the nodes wait at an epoch's end for
            those that may stop training or set the learning rate.
        shuffle: A new order of rows each epoch, that follows from `seed`.
        initial_epoch: The number of the first epoch; `epochs` is where training ends.
        seed: Of the order of rows and of dropout.
        partitions: Shares of a batch, a power of two, that fix the bits. None: from model and
            batch size.
        numerics: What decides bits: "cpu-avx2", "cpu-avx512", "cuda-fp32", "cuda-tf32",
            "cuda-bf16". None: by the machine.
        exact: False, with one node and "cuda-…": its GPUs' gradients are added in an order of
            NCCL's own, and the bits then depend on how many GPUs there are.

    Raises:
        LockstepError: What cannot be carried, before anything starts; and what ends the cluster.
            The model then has the last state that was kept: of the last epoch that was done,
            after Ctrl-C or an error in a callback of the last step.
    """
    listed = check(callbacks)
    _model.check(model, training=True)
    if not isinstance(exact, bool):
        raise LockstepError(f"exact={exact!r}: must be True or False")
    if not 0 <= initial_epoch <= epochs:
        raise LockstepError(f"initial_epoch={initial_epoch}: must be between 0 and epochs")
    shown = 1 if verbose == "auto" else int(verbose)
    with tempfile.TemporaryDirectory(prefix="lockstep-") as name:
        folder = pathlib.Path(name)
        _model.build(model, x)
        rows = _write(folder / "data", model, x, y, sample_weight, validation_data)
        steps = _steps(rows, validation_split, batch_size)
        hooks = Hooks(model, listed, initial_epoch, epochs, steps, shown)
        warn_of_thinned(listed)
        if not hooks.begin():
            return hooks.end({})
        _model.save(model, folder / "model.keras")
        options = {
            "model": folder / "model.keras", "data": folder / "data", "output": folder / "run",
            "nodes": nodes, "epochs": epochs - initial_epoch, "batch_size": batch_size,
            "loss": _model.loss_flag(model), "validation_split": validation_split or None,
            "validation_data": folder / "data" if validation_data is not None else None,
            "validation_steps": validation_steps, "shuffle": bool(shuffle), "seed": seed,
            "class_weight": _class_weights(class_weight), "partitions": partitions,
            "numerics": numerics, "exact": "on" if exact else "off",
            "callbacks": of_the_cluster(listed), "epoch_models": True}
        return _Training(model, hooks, folder / "run", shown).run(options)


def _write(folder: pathlib.Path, model: Any, x: Any, y: Any, sample_weight: Any,
           validation_data: Any) -> int:
    names = _model.input_names(model), _model.output_names(model)
    if y is None:
        raise LockstepError("y is missing: give targets as an array of their own")
    if validation_data is None:
        return write_data(folder, *names, x, y, sample_weight)
    if not isinstance(validation_data, (list, tuple)) or not 2 <= len(validation_data) <= 3:
        raise LockstepError("validation_data must be (x, y) or (x, y, sample_weight)")
    write_data(folder, *names, *validation_data, ending="_val")
    return write_data(folder, *names, x, y, sample_weight, ending="_train")


def _steps(rows: int, validation_split: float, batch_size: int) -> int:
    return -(-math.floor(rows * (1.0 - validation_split)) // batch_size)


def _class_weights(weights: Mapping[int, float] | None) -> dict[str, float] | None:
    if not weights:
        return None
    return {str(int(label)): float(weight) for label, weight in weights.items()}


class _Training:
    """One run of the binary: its events become calls of hooks, and its questions too."""

    def __init__(self, model: Any, hooks: Hooks, output: pathlib.Path, verbose: int):
        self._model = model
        self._hooks = hooks
        self._output = output
        self._verbose = verbose
        self._metrics: list[str] = []
        self._decisions: list[dict[str, Any]] = []  # of each epoch whose hooks were called
        self._newest: str | None = None  # file of a model
        self._seen: str | None = None  # digest of the weights that hooks saw last
        self._held = _model.digest(model) if hooks.has_batch_hooks else None  # which must stay
        self._logs: dict[str, float] = {}

    def run(self, options: dict[str, object]) -> Any:
        with _binary.start("train", *_binary.flags(options),
                           decides=self._hooks.decides) as process:
            try:
                for event in process.events():
                    if event["event"] == "decide":
                        process.answer(self._decide(event))
                    else:
                        self._take(event)
            except BaseException:
                process.stop()
                self._rescue(process.rest())
                raise
        return self._hooks.end(self._logs)

    def _rescue(self, events: list[Event]) -> None:
        """Sets the newest state that there is: the binary writes one when it is interrupted."""
        newest = self._newest
        for event in events:
            if event["event"] == "model":
                newest = event["path"]
        if newest:
            _model.load(self._model, newest)

    def _take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "job":
            self._metrics = event["metrics"]
        elif kind == "note":
            warnings.warn(event["text"], stacklevel=4)
        elif kind == "step":
            if event["epoch"] == len(self._decisions):  # after a rollback others come again
                self._hooks.batch(event["batch"], self._ordered(event["logs"]))
        elif kind == "epoch":
            self._decide(event)
        elif kind == "model":
            before, self._newest = self._newest, event["path"]  # Ctrl-C may come in between
            if before not in (None, self._newest):
                pathlib.Path(before).unlink()
        elif kind == "done":
            self._finish(event["weights_sha256"])
        elif self._verbose:
            self._tell(event)

    def _decide(self, event: Event) -> dict[str, Any]:
        """Calls the hooks of an epoch that is over, once: what they decided."""
        epoch = event["epoch"]
        if epoch == len(self._decisions):
            if self._held and self._held != _model.digest(self._model):
                raise LockstepError("a callback changed the weights in a batch hook, and only the "
                                    "nodes have those that are trained: leave it out")
            if self._hooks.needs_weights and self._newest:
                _model.load(self._model, self._newest)
                self._seen = _model.digest(self._model)
                self._held = self._held and self._seen
            self._logs = self._ordered(event["logs"])
            self._decisions.append(self._hooks.epoch(epoch, self._logs, self._seen))
        return self._decisions[epoch]

    def _finish(self, weights_sha256: str) -> None:
        """The model is the run's. What hooks have seen already they may have changed since."""
        if self._seen == weights_sha256:
            return
        _model.load(self._model, self._output / "model.keras")
        if _model.digest(self._model) != weights_sha256:
            raise LockstepError("the model in Python has not the weights that were trained: "
                                f"their SHA-256 is {weights_sha256}", 1)

    def _ordered(self, logs: dict[str, float | None]) -> dict[str, float]:
        """As Keras has them: the metrics in order, then those of validation; null is NaN."""
        names = [prefix + name for prefix in ("", "val_") for name in self._metrics]
        values = {name: logs[name] for name in names if name in logs}
        return {name: math.nan if value is None else value for name, value in values.items()}

    @staticmethod
    def _tell(event: Event) -> None:
        if event["event"] == "node_left" and event["why"] != "done":
            text = f"node '{event['node']}' left at step {event['step']}: {event['why']}"
        elif event["event"] == "recovery":
            text = f"steps go on {event['seconds']:.2f} s after node '{event['node']}' died"
        elif event["event"] == "restored":
            text = f"back to step {event['step']}: {event['why']}"
        else:
            return
        print(f"\n{text}", file=sys.stderr)
