"""What a process of ours does when whoever started it is gone: it ends, with all that it started."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from contextlib import suppress

_ENDS_S = 5.0
_CLEAN_S = 10.0


def end_with_parent() -> None:
    """Watch standard input, which `processes.child` holds open, and end once it closes; only where it is a pipe."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    end()


def end() -> None:
    """End what this process has started, then this process; each is asked to first, and killed where it does not."""
    import psutil

    # Flower gives its own child a session of its own: a group's signal would not reach it
    started = psutil.Process().children(recursive=True)
    for one in started:
        with suppress(psutil.Error):
            one.terminate()
    for one in psutil.wait_procs(started, _ENDS_S)[1]:
        with suppress(psutil.Error):
            one.kill()
    os.kill(os.getpid(), signal.SIGTERM)  # so that Flower says goodbye to the other side
    time.sleep(_CLEAN_S)
    os.kill(os.getpid(), signal.SIGKILL)
