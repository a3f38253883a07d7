"""A small disk, that fills."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from simulations.benchmarks.soak.stage import last_line

_NEWNS = 0x00020000


def small_disk(folder: Path, size: str) -> str:
    """Mount a small disk on ``folder``, for this process and its children alone; why not, where it cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNS):
        return f"no mount namespace for a small disk: {os.strerror(ctypes.get_errno())}"
    for words in (("--make-rprivate", "/"), ("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))):
        done = subprocess.run(["mount", *words], capture_output=True, text=True)
        if done.returncode:
            return f"no small disk: {last_line(done.stderr)}"
    return ""
