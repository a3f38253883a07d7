"""The library and the code that calls it are of one layout."""

import zlib
from pathlib import Path

import pytest

from fedprune.native import library, machine, steps

_HEADER = Path(steps.__file__).parent / "src" / "program.h"


def test_another_layout_has_another_number() -> None:
    text = _HEADER.read_text(encoding="utf-8").partition("struct Batch")[0].replace(f"LAYOUT = {steps.LAYOUT};", "")
    known = {6: 4037845787}
    assert zlib.crc32(text.encode()) == known[steps.LAYOUT], "a new LAYOUT, in src/program.h and in steps.py, and here"
    assert f"constexpr i64 FIELDS = {steps.FIELDS};" in _HEADER.read_text(encoding="utf-8")


def test_every_kind_has_the_same_number_on_both_sides() -> None:
    names = _HEADER.read_text(encoding="utf-8").partition("enum Kind {")[2].partition("}")[0]
    assert [name.strip() for name in names.split(",")] == [*(kind.name for kind in steps.Kind), "KINDS"]


@pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
def test_the_library_that_is_here_runs_here() -> None:
    assert library.instructions() in ("avx512", "avx2", "sse2", "neon")
    assert library.instructions("baseline") in ("baseline", "sse2", "neon")


def test_an_arena_begins_with_a_cache_line() -> None:
    for elements in (1, 17, 4096):
        arena = machine._aligned(elements)
        assert (arena.size, arena.ctypes.data % 64, arena.any()) == (elements, 0, False)
