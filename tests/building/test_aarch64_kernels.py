"""The kernels of a 64-bit Arm processor under emulation: what they compute is what this computer's do."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from kernel_runs import ROOT, RUNNER, Recorded, build, recorded, run

from fedprune.native import library

_TOOLS = {"qemu-aarch64": "qemu-user", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "cmake": "cmake"}
_LACKING = [package for program, package in _TOOLS.items() if not shutil.which(program)]
_CROSS = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++")

pytestmark = [
    pytest.mark.skipif(bool(_LACKING), reason=f"aarch64 is not emulated here: apt install {' '.join(_LACKING)}"),
    pytest.mark.skipif(library.library() is None, reason="the kernels are not compiled here"),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What runs recorded programs on an emulated Cortex-A72."""
    program = tmp_path_factory.mktemp("runner") / "runner"
    subprocess.run(["aarch64-linux-gnu-g++", "-std=c++17", "-O1", "-o", str(program), str(RUNNER), "-ldl"], check=True)
    return ["qemu-aarch64", "-cpu", "cortex-a72", "-L", "/usr/aarch64-linux-gnu", str(program)]


@pytest.fixture(scope="module")
def programs() -> list[Recorded]:
    return list(recorded())


def here(each: Recorded) -> np.ndarray:
    arena = each.arena.copy()
    library.run(arena, each.lanes, each.examples, each.table)
    return np.concatenate([arena[at] for at in each.results])


def compare(runner: list[str], built: Path, programs: list[Recorded], folder: Path) -> None:
    for each, found in zip(programs, run(runner, built, programs, folder), strict=True):
        expected = here(each)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(), err_msg=each.name)


def test_what_a_cross_compiler_builds_agrees(runner: list[str], programs: list[Recorded], tmp_path: Path) -> None:
    compare(runner, build(tmp_path / "built", *_CROSS), programs, tmp_path)


def test_what_the_wheel_holds_agrees(runner: list[str], programs: list[Recorded], tmp_path: Path) -> None:
    wheels = list((ROOT / "dist").glob("*aarch64.whl"))
    newest = max(path.stat().st_mtime for path in (ROOT / "fedprune" / "native" / "src").iterdir())
    if not wheels or wheels[0].stat().st_mtime < newest:
        pytest.skip("dist/ has no wheel of these kernels: make wheels")
    shutil.unpack_archive(wheels[0], tmp_path, "zip")
    compare(runner, tmp_path / "fedprune" / "native" / "_kernels.so", programs, tmp_path)
