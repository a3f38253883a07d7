"""A child process that ends when its parent is told to, cleanly where that is possible."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_CLEAN_S = 20.0


@contextmanager
def child(command: Sequence[str], environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, its output as lines of ``stdout``; at the end of the block it is gone.

    It is asked to end first, so that Flower says goodbye to the other side, and killed with its children after 20 s.
    Its standard input is a pipe that closes when this process is gone, however that came: see ``parent``.
    """
    process = subprocess.Popen(
        list(command), env={**environment, "PYTHONUNBUFFERED": "1"}, cwd=folder, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a process of ``child`` and all that it started in its session."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_CLEAN_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def show(process: subprocess.Popen[str], say: Callable[[str], None]) -> threading.Thread:
    """Give every line of a process of ``child`` to ``say``, in a thread: its children may hold its output open."""

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            say(line.rstrip("\n"))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block SIGTERM, which service managers send, raises KeyboardInterrupt as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
