"""A device whose processes for messages get no more memory than it states, from the kernel: and what they take of it.

An environment of `_device_environment` calls ``enter`` at every start of its Python, before anything else runs.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

LIMIT, PEAKS = "FEDPRUNE_LIMIT", "FEDPRUNE_PEAKS"
"""Environment variables: a control group's folder, or bytes; a folder for what each process took at most."""
_ROOT = Path("/sys/fs/cgroup")
_ANSWER = ("fedprune.deployment.device.clientapp", "fedprune.deployment.device.warm")
"""Whose processes answer a device's messages: one each, or what forks where memory allows."""


class Limit(NamedTuple):
    """What the kernel enforces."""

    told: str
    """Value of the environment variable."""
    how: str
    """In words."""

    def peak_bytes(self) -> int:
        """The most that all in the group took at a time, files that were read included; 0 where nobody counts."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with suppress(OSError, ValueError):
                return int(Path(self.told, name).read_text())
        return 0


def prepare(python: Path) -> None:
    """Let an environment's Python call ``enter`` at its start, where either variable is set."""
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    # after the file that says where the library lies
    call = f"__import__({__name__!r}, fromlist=['enter']).enter()"
    (site / "limit.pth").write_text(f"import os; {{{LIMIT!r}, {PEAKS!r}}} & os.environ.keys() and {call}\n")


@contextmanager
def limited(count: int) -> Iterator[Limit]:
    """So many bytes, by a control group where this process may make one, else by RLIMIT_AS."""
    made = next(filter(None, (_group(*place, count) for place in _places())), None)
    try:
        yield made or Limit(str(count), "RLIMIT_AS, from when the device's app is imported")
    finally:
        if made:
            Path(made.told).rmdir()


def _group(folder: Path, file: str, version: int, count: int) -> Limit | None:
    group = folder / f"fedprune-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        (group / file).write_text(str(count))
    except OSError:  # version 2 has the file only where the group above hands memory on
        group.rmdir()
        return None
    return Limit(str(group), f"a control group of version {version}")


def _places() -> Iterator[tuple[Path, str, int]]:
    """(a folder to make a group in, its file for the limit, version): below the own group, else beside it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else ():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, file, version = _ROOT / "memory", "memory.limit_in_bytes", 1
        elif not controllers:
            root, file, version = _ROOT, "memory.max", 2
        else:
            continue
        own = root / path.strip("/")
        yield from ((folder, file, version) for folder in (own, own.parent) if folder.is_relative_to(root))


def enter() -> None:
    """Be limited, and in the end note the peak, as the environment says, where this process is to answer messages."""
    if not any(word.endswith(_ANSWER) for word in sys.orig_argv):
        return
    if PEAKS in os.environ:
        atexit.register(_note, Path(os.environ[PEAKS]))  # also of each fork
    if LIMIT in os.environ:
        _be_limited(os.environ[LIMIT])


def _note(folder: Path) -> None:
    (folder / f"{os.getpid()}-{time.time_ns()}").write_text(str(high_water_bytes(os.getpid())))


def _be_limited(told: str) -> None:
    if not told.isdecimal():
        Path(told, "cgroup.procs").write_text(str(os.getpid()))
        return
    import resource

    import psutil

    import fedprune.deployment.device.app  # noqa: F401
    from fedprune.deployment.device.clientapp import command

    command()
    used = psutil.Process().memory_info()
    allowed = used.vms + max(0, int(told) - used.rss)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, resource.getrlimit(resource.RLIMIT_AS)[1]))


def high_water_bytes(pid: int) -> int:
    """The largest resident set that a process has had; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0


def together_bytes(pids: Iterable[int]) -> int:
    """What processes take on a machine of their own: what they share counts once, a file's by who has most of it.

    Their proportional set size alone would be less where others here have the same files open.
    """
    own, files = 0, dict[tuple[str, str], int]()
    for pid in pids:
        with suppress(OSError):
            own += sum(_kilobytes(line) for line in _lines(pid, "smaps_rollup") if line.startswith("Pss_Anon:"))
            key, resident = ("", ""), 0
            for line in _lines(pid, "smaps"):
                words = line.split()
                if not words[0].endswith(":"):
                    key = (words[2], words[5]) if len(words) > 5 and words[5].startswith("/") else ("", "")
                elif words[0] == "Rss:":
                    resident = _kilobytes(line)
                elif words[0] == "Anonymous:" and key[0]:
                    files[key] = max(files.get(key, 0), resident - _kilobytes(line))
    return 1024 * (own + sum(files.values()))


def _lines(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


def _kilobytes(line: str) -> int:
    return int(line.split()[1])
