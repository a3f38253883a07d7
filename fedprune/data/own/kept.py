"""What was read of a folder, kept in the user's cache: a device may be a new process for every message."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from fedprune.data.cache import cache_directory, write_whole
from fedprune.data.examples import Array


class Kept(NamedTuple):
    """Examples with their labels and recordings, and what could not be used; see `Recorded`."""

    inputs: Array
    labels: tuple[str, ...]
    recordings: tuple[str, ...]
    problems: tuple[str, ...]
    targets: tuple[tuple[float, ...], ...] = ()
    """Numbers to predict, of each example; empty where there are none."""


class _Beside(msgspec.Struct):
    """What is kept beside the inputs."""

    shape: tuple[int, ...]
    dtype: str
    labels: tuple[str, ...]
    recordings: tuple[str, ...]
    problems: tuple[str, ...]
    targets: tuple[tuple[float, ...], ...] = ()


def kept(folder: Path, stamp: str, make: Callable[[], Kept]) -> Kept:
    """Return make(), from the cache where it was kept under this folder and ``stamp``; older ones are removed.

    Inputs from the cache are a read-only memory map. A cache that is damaged is made anew; one that cannot be written
    is not used.
    """
    start = f"own-{hashlib.sha256(str(folder.absolute()).encode('utf-8', 'surrogateescape')).hexdigest()[:16]}-"
    path = cache_directory() / f"{start}{stamp}"
    if (found := _open(path)) is not None:
        return found
    fresh = make()
    # A full disk or a read-only home is no reason to stop.
    with contextlib.suppress(OSError):
        _write(path, fresh)
        for old in path.parent.glob(f"{start}*"):
            if old.stem != path.name:
                old.unlink(missing_ok=True)
    return fresh if (found := _open(path)) is None else found


def _open(path: Path) -> Kept | None:
    try:
        beside = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=_Beside)
        if 0 in beside.shape:  # nothing that could be mapped
            inputs: Array = np.zeros(beside.shape, beside.dtype)
        else:
            inputs = np.lib.format.open_memmap(path.with_suffix(".npy"), mode="r")
    except Exception:  # a damaged file fails in many ways, and all of them mean the same
        return None
    if inputs.shape != beside.shape or inputs.dtype != beside.dtype:
        return None
    if not inputs.shape or len(beside.labels) != len(inputs) or len(beside.recordings) != len(inputs):
        return None
    if len(beside.targets) not in (0, len(inputs)):
        return None
    return Kept(inputs, beside.labels, beside.recordings, beside.problems, beside.targets)


def _write(path: Path, fresh: Kept) -> None:
    beside = _Beside(
        fresh.inputs.shape, fresh.inputs.dtype.str, fresh.labels, fresh.recordings, fresh.problems, fresh.targets
    )
    write_whole(path.with_suffix(".npy"), lambda file: np.save(file, fresh.inputs))
    # the inputs are there before what leads to them
    write_whole(path.with_suffix(".json"), lambda file: file.write(msgspec.json.encode(beside)))
