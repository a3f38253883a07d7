"""The kernels under address and undefined-behaviour sanitizers, without warnings, over arenas of exactly their size."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from kernel_runs import RUNNER, Recorded, build, recorded, run

from fedprune.native.steps import Kind

_CHECKS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror")

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("g++", "cmake"))), reason="g++ and cmake are not both here: apt install g++ cmake"
)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A program that runs recorded ones, and the library."""
    folder = tmp_path_factory.mktemp("sanitized")
    flags = f"-DCMAKE_CXX_FLAGS={' '.join(_CHECKS)}"
    library = build(folder, "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_COMPILER=g++", flags)
    runner = folder / "runner"
    subprocess.run(["g++", "-std=c++17", *_CHECKS, "-o", str(runner), str(RUNNER), "-ldl"], check=True)
    return runner, library


@pytest.fixture(scope="module")
def programs() -> list[Recorded]:
    return list(recorded())


def test_the_programs_have_every_kind_of_step(programs: list[Recorded]) -> None:
    kinds = set().union(*(each.kinds() for each in programs))
    assert set(Kind) - kinds == {Kind.SQUARED_ERROR}  # which no program has yet


@pytest.mark.parametrize("instructions", ["", "avx2", "baseline"])
def test_no_step_reads_or_writes_beyond_its_arena_whatever_the_threads(
    sanitized: tuple[Path, Path], programs: list[Recorded], instructions: str, tmp_path: Path
) -> None:
    runner, library = sanitized
    one, three = (
        run([runner], library, programs, tmp_path, instructions=instructions, threads=threads) for threads in (1, 3)
    )
    for each, alone, shared in zip(programs, one, three, strict=True):
        assert np.isfinite(alone).all(), each.name
        assert np.array_equal(alone, shared), each.name


def test_an_arena_that_is_too_small_is_found(
    sanitized: tuple[Path, Path], programs: list[Recorded], tmp_path: Path
) -> None:
    runner, library = sanitized
    whole = programs[0]
    short = Recorded("short", whole.arena[:-64].copy(), whole.lanes, whole.examples, whole.table, ())
    with pytest.raises(AssertionError, match="heap-buffer-overflow"):
        run([runner], library, [short], tmp_path)
