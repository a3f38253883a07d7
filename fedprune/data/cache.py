"""Arrays that are slow to make, kept as memory-mapped .npy files in the user's cache directory."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def cache_directory() -> Path:
    """Returns $XDG_CACHE_HOME/fedprune, or ~/.cache/fedprune where that is unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedprune"


def cached(name: str, sources: Sequence[Path], shape: tuple[int, ...], make: Callable[[], Bytes]) -> Bytes:
    """Returns make() (uint8 of `shape`), read from the cache while no source file changes its path, size or time.

    What comes from the cache is a read-only memory map, so processes on one machine share its pages. A cache that is
    damaged is made anew; one that cannot be written is not used.
    """
    path = cache_directory() / f"{name}-{_key(sources, shape)}.npy"
    if (kept := _open(path, shape)) is not None:
        return kept
    made = make()
    # A full disk or a read-only home is no reason to stop.
    with contextlib.suppress(OSError):
        write_whole(path, lambda file: np.save(file, made))
    return made if (kept := _open(path, shape)) is None else kept


def _key(sources: Sequence[Path], shape: tuple[int, ...]) -> str:
    stats = [(str(source.resolve()), source.stat().st_size, source.stat().st_mtime_ns) for source in sources]
    return hashlib.sha256(repr((stats, shape)).encode()).hexdigest()[:16]


def _open(path: Path, shape: tuple[int, ...]) -> Bytes | None:
    try:
        kept = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # a damaged header fails in many ways, and all of them mean the same
        return None
    return kept if kept.shape == shape and kept.dtype == np.uint8 else None


def write_whole(path: Path, save: Callable[[IO[bytes]], object]) -> None:
    """Write what ``save`` puts into a file, whole or not at all, for this user's eyes. OSError where it cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())  # else a crash may leave a file of the right size full of zeros
        os.replace(temporary, path)  # readers see the whole file or none
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
