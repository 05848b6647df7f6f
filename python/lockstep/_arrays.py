"""Arrays and data frames as NPY files, which the nodes map into memory."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Mapping, Sequence

import numpy as np

from lockstep._binary import LockstepError

_FOR_OTHERS = "give numpy arrays or pandas data frames of numbers"


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def _as_array(value: Any, name: str) -> np.ndarray:
    """Without a copy where that can be."""
    if value is None or isinstance(value, (str, bytes, Mapping)) or callable(value):
        raise LockstepError(f"{name} is a {type(value).__name__}: {_FOR_OTHERS}")
    array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise LockstepError(f"{name} holds values of type {array.dtype}: {_FOR_OTHERS}")
    if array.ndim == 0:
        raise LockstepError(f"{name} is one {type(value).__name__}, no rows: {_FOR_OTHERS}")
    return array


def _whole_file_of(array: np.ndarray) -> str | None:
    """The NPY file that a memory-mapped array is, all of it."""
    filename = getattr(array, "filename", None)
    if not isinstance(array, np.memmap) or filename is None or not str(filename).endswith(".npy"):
        return None
    whole = np.load(filename, mmap_mode="r", allow_pickle=False)
    same = (whole.shape == array.shape and whole.dtype == array.dtype
            and whole.offset == array.offset and whole.strides == array.strides)
    return os.path.abspath(filename) if same and array.flags["C_CONTIGUOUS"] else None


def _write(folder: pathlib.Path, file: str, value: Any, name: str) -> int:
    """One array, copied once, or not at all where it is a file. Its number of rows."""
    path = folder / f"{file}.npy"
    if _is_frame(value):
        columns = [_as_array(value[column], f"column '{column}' of {name}")
                   for column in value.columns]
        kind = np.result_type(*(column.dtype for column in columns))
        out = np.lib.format.open_memmap(path, "w+", kind, (len(value), len(columns)))
        for at, column in enumerate(columns):
            out[:, at] = column
        return len(value)
    array = _as_array(value, name)
    whole = _whole_file_of(array)
    if whole is not None:
        os.symlink(whole, path)
    elif array.size == 0:
        raise LockstepError(f"{name} is empty: give it rows")
    else:
        kind = array.dtype.newbyteorder("<")
        np.lib.format.open_memmap(path, "w+", kind, array.shape)[...] = array
    return array.shape[0]


def unwrapped(value: Any) -> Any:
    """The array that a list of one array is, as Keras takes it where there is one input."""
    is_list = isinstance(value, (list, tuple)) and len(value) == 1
    return value[0] if is_list and hasattr(value[0], "shape") and np.ndim(value[0]) > 0 else value


def _by_name(called: str, value: Any, names: Sequence[str], what: str) -> dict[str, Any]:
    """The array of each input, or each output."""
    if isinstance(value, Mapping):
        if sorted(value) != sorted(names):
            raise LockstepError(f"{called} holds {', '.join(map(str, value))}, and the model's "
                                f"{what}s are {', '.join(names)}: give an array of each")
        return dict(value)
    several = isinstance(value, (list, tuple)) and len(names) > 1
    arrays = list(value) if several else [unwrapped(value)]
    if len(arrays) != len(names):
        raise LockstepError(f"{called} is {len(arrays)} array(s), and the model has {len(names)} "
                            f"{what}s ({', '.join(names)}): give a list of as many")
    return dict(zip(names, arrays))


def _write_named(folder: pathlib.Path, called: str, arrays: Mapping[str, Any],
                 ending: str) -> dict[str, int]:
    """The rows of each: an only array is called x or y, several by their names."""
    if len(arrays) == 1:
        return {called: _write(folder, called + ending, next(iter(arrays.values())), called)}
    return {f"{called}['{name}']": _write(folder, name + ending, array, f"{called}['{name}']")
            for name, array in arrays.items()}


def _is_of_outputs(weights: Any, outputs: Sequence[str]) -> bool:
    """Whether they are an array for each of several outputs, and not one for all."""
    if len(outputs) < 2:
        return False
    return isinstance(weights, Mapping) or (isinstance(weights, (list, tuple)) and len(weights) > 0
                                            and np.ndim(weights[0]) > 0)


def write_data(folder: pathlib.Path, inputs: Sequence[str], outputs: Sequence[str], x: Any,
               y: Any = None, sample_weight: Any = None, ending: str = "") -> int:
    """x.npy, y.npy and sample_weight.npy as the binary reads them; the number of rows.

    Several inputs or outputs are files of their names, and so are weights of single outputs.
    `ending`: "_train" or "_val", where a folder holds both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = _write_named(folder, "x", _by_name("x", x, inputs, "input"), ending)
    if y is not None:
        rows |= _write_named(folder, "y", _by_name("y", y, outputs, "output"), ending)
    if _is_of_outputs(sample_weight, outputs):
        weights = _by_name("sample_weight", sample_weight, outputs, "output")
        rows |= _write_named(folder, "", {f"{name}_sample_weight": array
                                          for name, array in weights.items()}, ending)
    elif sample_weight is not None:
        rows["sample_weight"] = _write(folder, "sample_weight" + ending, unwrapped(sample_weight),
                                       "sample_weight")
    if len(set(rows.values())) > 1:
        raise LockstepError("rows differ: " + ", ".join(f"{k} has {v}" for k, v in rows.items()))
    return next(iter(rows.values()))
