"""Where the `lockstep` binary is, and how it is run."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import threading
from typing import Any, Iterator, Sequence

Event = dict[str, Any]
Arguments = Sequence[object]

_BUNDLED = pathlib.Path(__file__).parent / "bin"
_INTERRUPTED: Event = {"event": "interrupted"}
_STOP_S = 1.5  # what a cluster gets to end by itself; nodes die with it


class LockstepError(RuntimeError):
    """What the binary said, in its words, or why a model or a callback cannot be carried.

    `exit_code` is the binary's: 1 failed, 2 bad usage, 3 halted, 4 refused to join; 2 where nothing
    was started.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


def find_binary() -> str:
    """The path of the binary: $LOCKSTEP_BINARY, the wheel's own, or `lockstep` on the PATH."""
    named = os.environ.get("LOCKSTEP_BINARY")
    if named:
        if os.access(named, os.X_OK):
            return named
        raise LockstepError(f"LOCKSTEP_BINARY={named}: there is no program of this name")
    bundled = _BUNDLED / "lockstep"
    found = str(bundled) if bundled.exists() else shutil.which("lockstep")
    if found is None:
        raise LockstepError("the program 'lockstep' is not here: set LOCKSTEP_BINARY to its path, "
                            "or put it on the PATH")
    return found


def _environment(binary: str) -> dict[str, str]:
    environment = dict(os.environ)
    if pathlib.Path(binary).parent == _BUNDLED:  # its libraries lie beside it
        paths = [str(_BUNDLED / "lib"), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
    return environment


def flags(options: dict[str, object]) -> list[str]:
    """Options as the command line has them: None is left out, dictionaries are JSON."""
    result = []
    for key, value in options.items():
        flag = "--" + key.replace("_", "-")
        if value is True:
            result.append(flag)
        elif value is False:
            result.append(flag.replace("--", "--no-", 1))
        elif value is not None:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            result += [flag, text]
    return result


def run(*arguments: object) -> str:
    """Runs a command to its end: what it wrote to standard output."""
    with _Process(arguments) as process:
        output = process.wait_for_output()
    return output


class _Process:
    """The running binary. Ended, with all nodes, when the context is left."""

    def __init__(self, arguments: Arguments, events: bool = False, decides: bool = False):
        binary = find_binary()
        command = [binary, *map(str, arguments)]
        pipe = os.pipe() if events else None
        answers = os.pipe() if decides else None
        passed = []
        if pipe:
            command += ["--events", str(pipe[1])]
            passed.append(pipe[1])
        if answers:
            command += ["--decisions", str(answers[0])]
            passed.append(answers[0])
        # A session of its own: Ctrl-C comes to this process alone, which then ends the other.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env=_environment(binary), start_new_session=True,
            pass_fds=passed)
        for descriptor in passed:
            os.close(descriptor)
        self._answers = os.fdopen(answers[1], "w", encoding="utf-8") if answers else None
        self._errors: list[str] = []
        self._output: list[str] = []
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._handler: Any = None  # of SIGINT, while ours stands in its place
        self._threads = [self._read(self._process.stderr, self._errors.append),
                         self._read(self._process.stdout, self._output.append)]
        if pipe:
            stream = os.fdopen(pipe[0], encoding="utf-8")
            self._threads.append(
                self._read(stream, self._take_event, lambda: self._events.put(None)))

    def __enter__(self) -> _Process:
        if (threading.current_thread() is threading.main_thread()
                and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler:
            signal.signal(signal.SIGINT, self._handler)
        self.stop()

    def _take_event(self, line: str) -> None:
        if line.endswith("\n"):  # else it was cut, where the binary was killed
            self._events.put(json.loads(line))

    def _interrupt(self, number: int, frame: Any) -> None:
        """Python drops a KeyboardInterrupt that hits a finalizer: events() raises it again."""
        self._events.put(_INTERRUPTED)
        signal.default_int_handler(number, frame)

    @staticmethod
    def _read(stream: Any, take: Any, at_end: Any = lambda: None) -> threading.Thread:
        def read() -> None:
            try:
                with stream:
                    for line in stream:
                        take(line)
            finally:
                at_end()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    @property
    def pid(self) -> int:
        return self._process.pid

    def events(self) -> Iterator[Event]:
        """Until "done". Any other end is an error."""
        while (event := self._events.get()) is not None:
            if event is _INTERRUPTED:
                raise KeyboardInterrupt
            if event["event"] == "error":
                raise LockstepError(event["message"], event["exit_code"])
            yield event
            if event["event"] == "done":
                return
        self._process.wait()
        raise self._error()

    def rest(self) -> list[Event]:
        """What the binary told before it ended, and events() has not given."""
        for thread in self._threads:
            thread.join(_STOP_S)
        events = []
        while not self._events.empty():
            event = self._events.get()
            if event is not None and event is not _INTERRUPTED:
                events.append(event)
        return events

    def answer(self, decision: dict[str, Any]) -> None:
        """To the event "decide". Where nobody listens any more the events say why."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(decision), file=self._answers, flush=True)

    def wait_for_output(self) -> str:
        code = self._process.wait()
        for thread in self._threads:
            thread.join()
        if code != 0:
            raise self._error()
        return "".join(self._output)

    def _error(self) -> LockstepError:
        self._threads[0].join()
        code = self._process.returncode
        said = [line.strip() for line in self._errors if line.strip()]
        for line in reversed(said):
            if line.startswith("error: "):
                return LockstepError(line.removeprefix("error: "), code)
        how = (f"was ended by {signal.Signals(-code).name}" if code < 0
               else f"ended with exit code {code}")
        return LockstepError("\n".join([f"lockstep {how}", *said[-5:]]), code)

    def stop(self) -> None:
        """Ends the cluster within two seconds, if it has not ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._answers:
            with contextlib.suppress(BrokenPipeError):
                self._answers.close()


def start(*arguments: object, decides: bool = False) -> _Process:
    """Starts a command that tells events, and asks for decisions if told. For `with`."""
    return _Process(arguments, events=True, decides=decides)
