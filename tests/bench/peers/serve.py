"""A peer's command loop: one JSON object a line on stdin, one reply a line on stdout."""

import contextlib
import json
import os
import sys

ALL_CORES = sorted(os.sched_getaffinity(0))


def serve(handlers):
    """Answer {"command": name, ...} with what handlers[name](...) returns, until stdin ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        arguments = json.loads(line)
        result = handlers[arguments.pop("command")](**arguments)
        replies.write(json.dumps(result) + "\n")
        replies.flush()


def place(rank, pinned):
    """Keep all of this process's threads on the rank's own core, or let them go again."""
    cores = {ALL_CORES[rank % len(ALL_CORES)]} if pinned else set(ALL_CORES)
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)
