"""Lockstep for Keras users: `lockstep.fit` in place of `model.fit`.

Training runs on a cluster of processes; the weights are bit for bit the same whatever number of
nodes ran it and whichever of them died. README.md has what is carried and what is refused.
"""

from lockstep._binary import LockstepError, find_binary
from lockstep._fit import fit
from lockstep._measure import evaluate, predict

__version__ = "0.1.0"
__all__ = ["LockstepError", "evaluate", "find_binary", "fit", "predict"]
