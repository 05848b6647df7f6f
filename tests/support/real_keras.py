"""Real Keras beside the package `lockstep`, for the tests that need both.

Keras comes from PyPI: `./dev test` installs it into build/venv-interop, and older versions into
build/keras-VERSION; LOCKSTEP_TEST_KERAS names one of these. Where it is not there `keras` is None,
and the tests are skipped with MISSING as the reason.
"""
import contextlib
import hashlib
import os
import sys
from unittest import mock

import runs

PYTHON = runs.ROOT / "build" / "venv-interop" / "bin" / "python"
OLDER = os.environ.get("LOCKSTEP_TEST_KERAS")
ALL = "LOCKSTEP_TEST_ALL" in os.environ  # `./dev test --all`: with what takes long
MISSING = f"Keras {OLDER or ''} is not here: PyPI could not be reached".replace("  ", " ")
sys.path.insert(0, str(runs.ROOT / "python"))
# Most of the time would go into compiling what runs a few times: not optimized, its fusions by the
# emitters that compile in half of the time, and kept for the next Keras and the next run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 "
                                   "--xla_llvm_disable_expensive_passes=true "
                                   "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(runs.ROOT / "build" / "jax-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
if OLDER:
    sys.path.insert(0, str(runs.ROOT / "build" / f"keras-{OLDER}"))
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
try:
    if OLDER:
        import jax
        # What today's JAX has no more, and older Keras enters around each step.
        jax.spmd_mode = lambda _: contextlib.nullcontext()
    import keras
    if OLDER and keras.__version__ != OLDER:
        raise ImportError(f"this is Keras {keras.__version__}")
    import numpy as np
    from keras import layers, losses, metrics

    import lockstep
except ImportError as error:
    if "lockstep" in str(error):
        raise
    keras = layers = losses = metrics = np = lockstep = None


def digest(model):
    """What a run's weights_sha256 must be."""
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()


def before(version):
    """Whether this is an older Keras than "3.10"."""
    return [int(part) for part in keras.__version__.split(".")[:2]] < [
        int(part) for part in version.split(".")]


def zeros_for_weights():
    """While it lasts kernels begin as zeros, for which JAX compiles nothing."""
    def zeros(_, shape, dtype=None, **__):
        return np.zeros(shape, dtype or "float32")
    return mock.patch.object(keras.initializers.VarianceScaling, "__call__", zeros)


def main():
    """runs.main(), in the environment that has Keras."""
    runs.main_in(PYTHON, keras is not None)
