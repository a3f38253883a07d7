"""The compiled kernels, called through ctypes; without them there is no native training."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

from fedprune.native.steps import LAYOUT
from fedprune.types import Tensor

_FILE = "_kernels.dll" if sys.platform == "win32" else "_kernels.so"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library; None where it is not installed, or does not fit this code or this machine."""
    for path in _places():
        try:
            found = ctypes.CDLL(str(path))
        except OSError:
            continue
        found.fedprune_layout.restype = ctypes.c_longlong
        if found.fedprune_layout() != LAYOUT:
            continue
        found.fedprune_instructions.restype = ctypes.c_char_p
        found.fedprune_instructions.argtypes = [ctypes.c_char_p]
        found.fedprune_run.restype = None
        found.fedprune_run.argtypes = [
            ctypes.c_char_p, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_int, ctypes.c_void_p,
            ctypes.c_longlong,
        ]  # fmt: skip
        return found
    return None


def _places() -> list[Path]:
    # An app bundle's copy of this package has no library; the installed one, further on the path, has.
    copies = [Path(__file__).parent, *(Path(entry, "fedprune", "native") for entry in sys.path)]
    return [path for copy in copies if (path := copy / _FILE).exists()]


def instructions(wanted: str = "") -> str:
    """The instruction set that kernels are run with, such as avx512; "" without a library."""
    found = library()
    return "" if found is None else found.fedprune_instructions(wanted.encode()).decode()


def run(arena: Tensor, lanes: int, examples: int, steps: Tensor, *, threads: int = 1, wanted: str = "") -> None:
    """Run encoded steps over an arena of float32, of a batch of ``examples`` in ``lanes``."""
    found = library()
    assert found is not None
    assert arena.dtype == "float32"
    assert steps.flags.c_contiguous
    found.fedprune_run(wanted.encode(), arena.ctypes.data, lanes, examples, threads, steps.ctypes.data, len(steps))
