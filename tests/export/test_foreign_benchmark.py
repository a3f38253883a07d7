"""The benchmark of files that people bring: what becomes of a good one, one of floats, one that is none."""

from pathlib import Path

import pytest
from brought_files import byte_ends
from export_files import small
from export_nets import Plain

from fedprune.export.c99 import boards
from simulations.benchmarks.foreign import EXPORTED, REFUSED, kind, table, taken


def test_every_file_is_counted_by_what_became_of_it(tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    (tmp_path / "deep").mkdir()
    contents = {"deep/bytes.tflite": byte_ends(), "floats.tflite": small(Plain)[1], "none.tflite": b"\x00" * 64}
    files = []
    for name, content in contents.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    found = list(taken(files, tmp_path))
    assert [one.name for one in found] == list(contents)
    assert [one.verdict for one in found] == [EXPORTED, REFUSED, REFUSED]
    assert found[0].why == "TensorFlow Lite Micro"
    assert "--calibrate DATA" in found[1].why
    assert table(found).row_count == 4 + 3


@pytest.mark.parametrize(
    ("why", "alike"),
    [
        ("operator 3, SUM, has an input of scale 0.5", "operator 12, SUM, has an input of scale 1.25e-3"),
        ("no C kernel covers SIN (operator 0, 2)", "no C kernel covers SIN (operator 7)"),
        ("operator 1, ADD, works on shapes [1, 2]", "operator 2, ADD, works on shapes [4]"),
    ],
)
def test_reasons_that_differ_in_numbers_alone_are_one_kind(why: str, alike: str) -> None:
    assert kind(why) == kind(alike) != kind(why.replace("S", "T").replace("ADD", "SUB"))
