"""A process that has a device's app imported, and forks for each message: what starts with it need not import again.

A message still has a process of its own, whose memory is free when it ends. The one that forks never computes: it has
no thread but those that numpy's library starts with its import and ends itself around a fork.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from select import select
from typing import Any

from fedprune.deployment.device.clientapp import command, end_with_parent

LEAST_BYTES, TORCH_BYTES = 2**29, 3 * 2**29
"""A device that has less to use, by any limit, keeps nothing of it, or not torch, for what only saves time: 90 MB, and
with torch 280 MB."""
_READY, _FORKED = b"ready\n", b"forked\n"
_FORKS_S = 10.0
_PR_SET_PDEATHSIG = 1  # of Linux, where alone this runs


class Warm:
    """The process that forks, from the side of whoever wants processes of it; it ends with that one."""

    def __init__(self) -> None:
        """Start it; it imports meanwhile, or ends where this is no machine for it."""
        self._process: subprocess.Popen[bytes] | None = None
        if sys.platform == "linux":
            with suppress(OSError):
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
                )

    def launch(self, words: list[str]) -> bool:
        """Whether a process now runs Flower's command for an app with these ``words``.

        False while it still imports, and for good after anything that is not as it should be.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return False
        try:
            if not self._said(process, _READY, 0.0):
                if process.poll() is not None:
                    self.close()
                return False
            process.stdin.write("\0".join(words).encode() + b"\n")
            if self._said(process, _FORKED, _FORKS_S):
                return True
        except OSError:
            pass
        self.close()
        return False

    def close(self) -> None:
        """End it; what it has forked goes on."""
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
            self._process.wait()
            self._process = None

    @staticmethod
    def _said(process: subprocess.Popen[bytes], word: bytes, patience_s: float) -> bool:
        assert process.stdout is not None
        return bool(select([process.stdout], [], [], patience_s)[0]) and process.stdout.readline() == word


def main() -> None:
    """Import, say ready, and fork for each line of standard input, which closes when that is no longer wanted."""
    from fedprune.budgets import memory_bytes

    if memory_bytes() < LEAST_BYTES:
        return
    _end_with(os.getppid())
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what an app prints goes where its errors go
    run, threads = _imported()
    gc.collect()
    gc.freeze()  # pages that the collector does not write to stay shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while _threads() <= threads and threading.active_count() == 1:
        said.write(_READY)
        if not (line := sys.stdin.buffer.readline()):
            return
        if os.fork() == 0:
            said.close()
            _become(line.rstrip(b"\n").decode().split("\0"))
            run()
            return
        said.write(_FORKED)


def _end_with(parent: int) -> None:
    """End at once where the parent does, also while this imports; what is forked does not."""
    import ctypes

    with suppress(OSError, AttributeError):  # a C library without it: the closed pipe ends this as well, if later
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _imported() -> tuple[Any, int]:
    """Flower's command for a device's app, with all that it will import; and the threads that there may be."""
    import numpy  # noqa: F401

    from fedprune.budgets import memory_bytes

    threads = _threads()
    if memory_bytes() >= TORCH_BYTES:
        with suppress(ImportError):  # a device may train without it
            import torch  # noqa: F401
    run = command()
    import fedprune.deployment.device.app  # noqa: F401

    return run, threads


def _become(words: list[str]) -> None:
    """Be as a process that was started with these words."""
    import numpy as np

    sys.argv = ["flwr-clientapp", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    end_with_parent(words)
    np.random.seed()  # noqa: NPY002  # who draws from it without a seed would draw the same for each message


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


if __name__ == "__main__":
    main()
