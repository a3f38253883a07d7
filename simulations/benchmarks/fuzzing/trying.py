"""Inputs tried one by one in a child process, so that one that ends or hangs it is a count, and the next is tried."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fedprune.counter_rng import generator
from simulations.benchmarks.fuzzing.mutate import mutated
from simulations.benchmarks.fuzzing.target import Target
from simulations.benchmarks.soak.stage import ROOT

REFUSED, ACCEPTED, UNDOCUMENTED, SIGNAL, HANG = "refused", "accepted", "undocumented", "signal", "hang"
LIMIT_S = 10.0
"""Of one input; after it the process is ended."""
_START_S = 300.0
_MOST_BYTES = 6 * 2**30
_MODULES = ("messages", "texts", "folders", "tflite")
_DIES_WITH_ITS_PARENT = 1  # PR_SET_PDEATHSIG


class Piece(NamedTuple):
    """Inputs of a target, by number."""

    target: str
    first: int
    end: int


class Tried(NamedTuple):
    """What became of one input."""

    target: str
    number: int
    verdict: str
    why: str
    """The error; empty where there was none."""
    seconds: float
    kib: int
    """Resident memory that it took on top."""


def targets() -> dict[str, Target]:
    """Every target, by name."""
    package = "simulations.benchmarks.fuzzing"
    found = [importlib.import_module(f"{package}.{name}") for name in _MODULES if find_spec(f"{package}.{name}")]
    return {name: target for module in found for name, target in module.TARGETS.items()}


def case(name: str, seed: int, number: int, seeds: Sequence[bytes]) -> bytes:
    """The input that follows from (seed, target, number)."""
    return mutated(seeds, generator(seed, "fuzz", name, number))


def tried(pieces: Sequence[Piece], seed: int) -> Iterator[Tried]:
    """What becomes of every input of the pieces, in order, over as many processes as it takes."""
    left = list(pieces)
    while left:
        for one in _over_a_child(left, seed):
            yield one
            left = _after(left, one)


def _after(pieces: Sequence[Piece], done: Tried) -> list[Piece]:
    head, *rest = pieces
    head = head._replace(first=done.number + 1)
    return [head, *rest] if head.first < head.end else rest


def _over_a_child(pieces: Sequence[Piece], seed: int) -> Iterator[Tried]:
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "simulations.benchmarks.fuzz", "--child", str(theirs), "--seed", str(seed)]
    with subprocess.Popen(
        [*command, "--pieces", json.dumps(pieces)], cwd=ROOT, pass_fds=[theirs], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as child:  # fmt: skip
        os.close(theirs)
        due, text, started = list(pieces), b"", time.monotonic()
        try:
            while due:
                limit = LIMIT_S if text or child.poll() is not None else _START_S
                while b"\n" not in text.rpartition(b"\r")[2]:
                    ready = select.select([ours], [], [], limit)[0]
                    more = os.read(ours, 1 << 16) if ready else b""
                    if not more:
                        break
                    text += more
                    limit = LIMIT_S
                lines = text.rpartition(b"\r")[2].split(b"\n")
                if len(lines) == 1:
                    yield _ended(child, due[0], time.monotonic() - started, hung=not ready)
                    return
                for line in lines[:-1]:
                    if line != b"ready":
                        one = Tried(*json.loads(line))
                        due, started = _after(due, one), time.monotonic()
                        yield one
                text = b"\r" + lines[-1]  # something has been heard
        finally:
            os.close(ours)
            child.kill()


def _ended(child: subprocess.Popen[bytes], at: Piece, seconds: float, *, hung: bool) -> Tried:
    if hung:
        return Tried(at.target, at.first, HANG, f"not over after {LIMIT_S:g} s", seconds, 0)
    code = child.wait()
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Tried(at.target, at.first, SIGNAL, name, seconds, 0)


def child(pieces: Sequence[Piece], seed: int, pipe: int) -> None:
    """Try the pieces' inputs in this process; one line of JSON for each into the pipe."""
    ctypes.CDLL(None).prctl(_DIES_WITH_ITS_PARENT, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    every = targets()
    with os.fdopen(pipe, "w", buffering=1) as out:
        for piece in pieces:
            target = every[piece.target]
            seeds = target.seeds()
            with suppress(Exception):
                target.run(seeds[0])  # whatever is made once is no single input's
            out.write("ready\n")
            for number in range(piece.first, piece.end):
                out.write(
                    json.dumps(_try(target, piece.target, number, case(target, piece.target, seed, number, seeds)))
                )
                out.write("\n")


def _try(target: Target, name: str, number: int, data: bytes) -> Tried:
    before, started = _fresh_peak_kib(), time.perf_counter()
    verdict, why = ACCEPTED, ""
    try:
        target.run(data)
    except target.documented as error:
        verdict, why = REFUSED, type(error).__name__
    except Exception as error:
        verdict, why = UNDOCUMENTED, said(error)
    seconds = time.perf_counter() - started
    return Tried(name, number, verdict, why, round(seconds, 4), max(0, _status_kib("VmHWM") - before))


def said(error: BaseException) -> str:
    """An error in a line, and where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename]
    at = f" at {Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {str(error)[:160]}{at}".replace("\n", " ")


def _fresh_peak_kib() -> int:
    """Resident memory now, from which the peak counts again."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_kib("VmHWM")


def _status_kib(key: str) -> int:
    found: Mapping[str, str] = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    return int(found[key].split()[0])
