"""Processes that a test starts: with signals as in a shell's foreground, marked, and found again by their mark."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "FEDPRUNE_TEST"
"""Environment variable by which a test knows its processes, and those that they start."""


def default_interrupt() -> None:
    """For ``preexec_fn``: under nohup, or behind an &, a process and all it starts ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python_path(first: Path) -> str:
    """PYTHONPATH with a folder before whatever it names here, such as another checkout that is tested."""
    return os.pathsep.join([str(first), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def marked(mark: str) -> Iterator[psutil.Process]:
    """Processes that live, and whose mark it is."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def left(mark: str, seconds: float) -> list[str]:
    """Commands of what is left of the marked processes after at most so many seconds; ended, so that they do not stay.

    This process is none of them.
    """
    until = time.monotonic() + seconds
    while (found := list(marked(mark))) and time.monotonic() < until:
        time.sleep(0.2)
    said = []
    for process in found:
        with suppress(psutil.Error):
            said.append(" ".join(process.cmdline())[:200])
            os.kill(process.pid, signal.SIGKILL)
    return said
