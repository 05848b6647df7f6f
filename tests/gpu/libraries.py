"""Where the vendor's libraries are found by the programs that check.py and bench.py start."""

import glob
import os
import sys


def folders():
    """Where Python packages keep them, for machines without a toolkit."""
    found = []
    for name in ("libcudnn.so.9", "libcublasLt.so.13", "libnccl.so.2"):
        for root in sys.path + ["/usr/local/cuda/lib64"]:
            paths = glob.glob(f"{root}/nvidia/*/lib/{name}") + glob.glob(f"{root}/{name}")
            found += [os.path.dirname(path) for path in paths]
    return list(dict.fromkeys(found))


def environment(build):
    """Of a program in the folder `build`."""
    variables = dict(os.environ)
    paths = [str(build / "lib")] + folders()
    before = os.environ.get("LD_LIBRARY_PATH")
    variables["LD_LIBRARY_PATH"] = ":".join(paths + ([before] if before else []))
    if (build / "source").exists():
        variables["LOCKSTEP_SOURCE_DIR"] = str((build / "source").resolve())
    return variables
