"""flwr-clientapp of a device: Flower's own, in less memory, and gone for good some time after who started it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from fedprune.deployment.device import flower

_PARENT = "--parent-pid"
_CLEAN_S = 10.0


def command() -> Callable[[], None]:
    """Flower's command, with all that it needs imported."""
    found: Callable[[], None] = flower.attribute("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp")
    return found


def end_with_parent(words: Sequence[str]) -> None:
    """Watch the process that these words of the command name, and end after it.

    Flower interrupts itself then, once; where it is telling a link that is gone, it would do so for minutes.
    """
    if _PARENT in words[:-1]:
        parent = int(words[words.index(_PARENT) + 1])
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    import psutil

    while psutil.pid_exists(parent):
        time.sleep(1)
    time.sleep(_CLEAN_S)
    os._exit(1)


if __name__ == "__main__":
    end_with_parent(sys.argv[1:])
    command()()
