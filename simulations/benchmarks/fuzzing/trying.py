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
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fedprune.counter_rng import generator
from simulations.benchmarks.fuzzing.target import Target
from simulations.benchmarks.soak.stage import ROOT

REFUSED, ACCEPTED, UNDOCUMENTED, SIGNAL, HANG = "refused", "accepted", "undocumented", "signal", "hang"
LIMIT_S = 10.0
"""Of one input; after it the process is ended."""
_START_S = 300.0
_NEXT, _READY = "next", "ready"
"""What a child writes before it makes a target's honest inputs, and before the first of them is spoilt."""
_MOST_BYTES = 6 * 2**30
_MODULES = ("messages", "texts", "folders", "recordings", "tflite", "brought")
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


@cache
def targets() -> dict[str, Target]:
    """Every target, by name."""
    package = "simulations.benchmarks.fuzzing"
    found = [importlib.import_module(f"{package}.{name}") for name in _MODULES if find_spec(f"{package}.{name}")]
    return {name: target for module in found for name, target in module.TARGETS.items()}


def case(name: str, seed: int, number: int, seeds: Sequence[bytes]) -> bytes:
    """The input that follows from (seed, target, number)."""
    return targets()[name].spoil(seeds, generator(seed, "fuzz", name, number))


def tried(pieces: Sequence[Piece], seed: int) -> Iterator[Tried]:
    """What becomes of every input of the pieces, in order, over as many processes as it takes.

    One that hangs has its turn twice: it may be that the machine gave its process no time.
    """
    left, again = list(pieces), ("", -1)
    while left:
        for one in _over_a_child(left, seed):
            if one.verdict == HANG and again != (one.target, one.number):
                again = one.target, one.number
                continue
            yield one
            left = _after(left, one)


def _after(pieces: Sequence[Piece], done: Tried) -> list[Piece]:
    head, *rest = pieces
    head = head._replace(first=done.number + 1)
    return [head, *rest] if head.first < head.end else rest


def _over_a_child(pieces: Sequence[Piece], seed: int) -> Iterator[Tried]:
    """What becomes of the inputs until one ends the process, or hangs it; that one is the last."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "simulations.benchmarks.fuzz", "--child", str(theirs), "--seed", str(seed)]
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
        [*command, "--pieces", json.dumps(pieces)], cwd=ROOT, pass_fds=[theirs], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=errors,
    ) as child:  # fmt: skip
        os.close(theirs)
        at: Piece | None = None
        left = list(pieces)
        try:
            for line in _lines(ours):
                if line == _READY:
                    at = left[0]
                elif line != _NEXT:
                    one = Tried(*json.loads(line))
                    left = _after(left, one)
                    yield one
                    at = left[0] if left and left[0].target == one.target else None
            if left and at is None:
                child.kill()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()
                raise RuntimeError(f"{left[0].target} cannot begin: {said[-1] if said else 'it takes too long'}")
            if left:
                yield _ended(child, left[0])
        finally:
            os.close(ours)
            child.kill()


def _lines(pipe: int) -> Iterator[str]:
    """What a child writes, line by line, until it ends, or has written nothing for too long."""
    text, patience = b"", _START_S
    while select.select([pipe], [], [], patience)[0] and (more := os.read(pipe, 1 << 16)):
        *lines, text = (text + more).split(b"\n")
        for line in map(bytes.decode, lines):
            yield line
            patience = _START_S if line == _NEXT else LIMIT_S


def _ended(child: subprocess.Popen[bytes], at: Piece) -> Tried:
    """The input that a process was at when it ended, or that it is at without end."""
    try:
        code = child.wait(1)
    except subprocess.TimeoutExpired:
        return Tried(at.target, at.first, HANG, f"not over after {LIMIT_S:g} s", LIMIT_S, 0)
    return Tried(at.target, at.first, SIGNAL, signal.Signals(-code).name if code < 0 else f"exit code {code}", 0, 0)


def child(pieces: Sequence[Piece], seed: int, pipe: int) -> None:
    """Try the pieces' inputs in this process; one line of JSON for each into the pipe."""
    ctypes.CDLL(None).prctl(_DIES_WITH_ITS_PARENT, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    every = targets()
    with os.fdopen(pipe, "w", buffering=1) as out:
        for piece in pieces:
            out.write(f"{_NEXT}\n")
            target = every[piece.target]
            seeds = target.seeds()
            with suppress(Exception):
                target.run(seeds[0])  # whatever is made once is no single input's
            out.write(f"{_READY}\n")
            for number in range(piece.first, piece.end):
                data = case(piece.target, seed, number, seeds)
                out.write(json.dumps(_try(target, piece.target, number, data)) + "\n")


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
