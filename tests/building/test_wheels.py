"""What `make wheels` leaves in dist/: each wheel's library is of its processor and runs where its tag says."""

import ctypes
import platform
import re
import struct
import zipfile
from pathlib import Path

import pytest

from fedprune.native.library import instructions

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
_MACHINES = {"x86_64": 62, "aarch64": 183}
"""Of an ELF file's header."""

pytestmark = pytest.mark.skipif(not list(DIST.glob("*.whl")), reason="dist/ has no wheels: make wheels")


def library(processor: str) -> bytes:
    (wheel,) = DIST.glob(f"fedprune-*-py3-none-manylinux_2_17_{processor}.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("fedprune/native/_kernels.so")


def test_there_are_a_source_distribution_and_two_wheels() -> None:
    names = sorted(path.name for path in DIST.iterdir())
    assert [name.rsplit("_2_17_")[-1] for name in names if name.endswith(".whl")] == ["aarch64.whl", "x86_64.whl"]
    assert sum(name.endswith(".tar.gz") for name in names) == 1


@pytest.mark.parametrize("processor", _MACHINES)
def test_a_wheels_library_is_of_its_processor_and_asks_for_no_newer_system(processor: str) -> None:
    held = library(processor)
    (machine,) = struct.unpack_from("<H", held, 18)
    assert (held[:4], machine) == (b"\x7fELF", _MACHINES[processor])
    wanted = {tuple(map(int, found.split(b"."))) for found in re.findall(rb"GLIBC_([0-9.]+)\0", held)}
    assert wanted
    assert max(wanted) <= (2, 17)
    assert not re.search(rb"lib(std)?c\+\+(abi)?\.so|libgcc_s\.so", held)


def test_this_processors_wheel_finds_its_vectors(tmp_path: Path) -> None:
    """A compiler's own way to ask the processor may say nothing: then all would run on the narrowest."""
    if platform.machine() not in _MACHINES or not instructions():
        pytest.skip("the kernels are not compiled here, or for another processor")
    file = tmp_path / "_kernels.so"
    file.write_bytes(library(platform.machine()))
    found = ctypes.CDLL(str(file))
    found.fedprune_instructions.restype = ctypes.c_char_p
    assert found.fedprune_instructions(b"").decode() == instructions()
