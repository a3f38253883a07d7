"""A run's folder is written by one process at a time: a lock that the system frees when that process ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from fedprune.experiment import ExperimentError

FILE = "in-use.json"
"""In a folder while somebody writes there, and who. Whether it is locked counts, not whether it is there."""


@contextmanager
def held(folder: Path, doing: str) -> Iterator[int]:
    """Hold a folder for the block, as for ``doing``; gives the open file whose lock it is. The folder is made.

    ExperimentError where another process holds it, with who that is, or where nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(folder / FILE)
    except BlockingIOError:
        who = _who(folder)
        raise ExperimentError(f"{folder}: in use by {who}; wait until it ends, or choose another folder") from None
    except (FileExistsError, NotADirectoryError) as error:
        raise ExperimentError(f"{error.filename}: is no folder; choose another with --out") from error
    except OSError as error:
        raise ExperimentError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        with suppress(OSError):  # on a full disk the lock holds all the same
            said = {"pid": os.getpid(), "doing": doing, "since": datetime.now(UTC).isoformat(timespec="seconds")}
            os.truncate(handle, 0)
            os.pwrite(handle, json.dumps(said).encode(), 0)
        yield handle
    finally:
        with suppress(OSError):
            if holds(folder, handle):
                (folder / FILE).unlink()
        os.close(handle)


def free(folder: Path) -> None:
    """ExperimentError, as of ``held``, where another process holds a folder now. Nothing is written."""
    if (folder / FILE).exists():
        with held(folder, command()):
            pass


def holds(folder: Path, handle: int) -> bool:
    """Whether the folder is still the one that ``handle`` of ``held`` locks, and not gone, or another in its place."""
    try:
        return os.path.samestat(os.stat(folder / FILE), os.fstat(handle))
    except FileNotFoundError:
        return False


def _locked(file: Path) -> int:
    import fcntl  # not on every machine that reads a run's folder

    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # whoever held it may have removed the file in between: then this one is nobody's
            if holds(file.parent, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _who(folder: Path) -> str:
    try:
        said = json.loads((folder / FILE).read_bytes())
        text = f"process {int(said['pid'])} ({said['doing']}, since {said['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]


def command() -> str:
    """What this process was started to do, in a few words: its command line without its path."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
