"""Folders of .npz files, and loaders of one's own."""

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from own_folders import ARRAYS, problem, write_arrays

from fedprune.data import DataError
from fedprune.data.own import read
from fedprune.experiment import Data

INPUTS = np.arange(12, dtype=np.float64).reshape(3, 2, 2)


def test_inputs_labels_and_recordings(tmp_path: Path) -> None:
    write_arrays(tmp_path / "b.npz", inputs=INPUTS, labels=["sit", "walk", "sit"], recordings=[7, 7, 8])
    write_arrays(tmp_path / "in" / "a.npz", inputs=INPUTS[:1], labels=np.array([b"walk"]))
    recorded = read(ARRAYS, tmp_path)
    assert recorded.inputs.dtype == np.float32
    assert np.array_equal(recorded.inputs, np.concatenate([INPUTS, INPUTS[:1]]))
    assert recorded.labels == ("sit", "walk", "sit", "walk")
    assert recorded.recordings == ("7", "7", "8", "in/a.npz#0")
    assert recorded.problems == ()


def test_bytes_stay_bytes_and_do_not_mix(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", inputs=INPUTS.astype(np.uint8), labels=[0, 1, 2])
    write_arrays(tmp_path / "b.npz", inputs=INPUTS, labels=[0, 1, 2])
    assert read(ARRAYS, tmp_path).inputs.dtype == np.uint8
    assert problem(ARRAYS, tmp_path) == "b.npz: inputs are float32; the others are uint8"


def test_integers_are_texts_or_positions_of_classes(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", inputs=INPUTS, labels=[1, 0, 5])
    assert read(ARRAYS, tmp_path).labels == ("1", "0", "5")
    named = msgspec.structs.replace(ARRAYS, classes=("sit", "walk"))
    assert read(named, tmp_path).labels == ("walk", "sit", "5")
    # names that are numbers are names
    assert read(msgspec.structs.replace(ARRAYS, classes=("5", "0", "1")), tmp_path).labels == ("1", "0", "5")


def test_examples_that_are_not_finite_are_left_out_and_keep_the_others_rows(tmp_path: Path) -> None:
    inputs = INPUTS.copy()
    inputs[1, 0, 1] = np.nan
    write_arrays(tmp_path / "a.npz", inputs=inputs, labels=["x", "y", "z"])
    assert problem(ARRAYS, tmp_path) == (
        "a.npz: 1 of 3 examples hold a value that is no finite number and are left out (rows 1)"
    )
    recorded = read(ARRAYS, tmp_path)
    assert (recorded.labels, recorded.recordings) == (("x", "z"), ("a.npz#0", "a.npz#2"))
    inputs[1, 0, 1] = 1e39  # which float32 does not hold
    write_arrays(tmp_path / "a.npz", inputs=inputs, labels=["x", "y", "z"])
    assert "1 of 3 examples" in problem(ARRAYS, tmp_path)


BAD = {
    "no labels": ({"inputs": INPUTS}, "no array labels; it has inputs"),
    "flat": ({"inputs": INPUTS[:, 0, 0], "labels": [1, 2, 3]}, "inputs have shape (3,); expected (n, C, ...)"),
    "too few labels": ({"inputs": INPUTS, "labels": [1, 2]}, "labels have shape (2,); expected (3,)"),
    "fractions": ({"inputs": INPUTS, "labels": [1.5, 2, 3]}, "labels are float64; expected texts or integers"),
    "objects": (
        {"inputs": INPUTS, "labels": np.array([{}, "b", 3], object)},
        "holds Python objects, which are not read; save arrays of numbers and of text",
    ),
    "complex": ({"inputs": INPUTS * 1j, "labels": [1, 2, 3]}, "inputs are complex128; expected real numbers"),
    "shape": (
        {"inputs": INPUTS[:, :1], "labels": [1, 2, 3]},
        "examples of shape 1x2; the others have 2x2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unfit_file_is_a_line_and_others_go_on(tmp_path: Path, name: str) -> None:
    arrays, said = BAD[name]
    write_arrays(tmp_path / "a.npz", inputs=INPUTS, labels=[0, 1, 2])
    write_arrays(tmp_path / "b.npz", **arrays)
    assert problem(ARRAYS, tmp_path).startswith(f"b.npz: {said}")
    assert len(read(ARRAYS, tmp_path)) == 3


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", inputs=INPUTS, labels=[0, 1, 2])
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[:-40])
    (tmp_path / "c.npz").write_bytes(b"zip it")
    np.save(tmp_path / "d.npy", INPUTS)
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    found = read(ARRAYS, tmp_path)
    assert found.recordings == ("a.npz#0", "a.npz#1", "a.npz#2")
    no_npz = "no .npz file; expected one with the arrays inputs and labels, as numpy.savez writes it"
    assert found.problems == (f"b.npz: {no_npz}", f"c.npz: {no_npz}", f"d.npz: {no_npz}")


def test_an_array_that_is_damaged_within_its_file(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", inputs=INPUTS, labels=[0, 1, 2])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 255  # the first value of inputs, whose checksum now differs
    (tmp_path / "a.npz").write_bytes(content)
    assert read(ARRAYS, tmp_path).problems[0].startswith("a.npz: no array (Bad CRC-32")


def test_a_shape_that_is_given_decides(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", inputs=INPUTS[:, :1], labels=[0, 1, 2])
    write_arrays(tmp_path / "b.npz", inputs=INPUTS, labels=[0, 1, 2])
    settings = msgspec.structs.replace(ARRAYS, shape=(2, 2))
    assert problem(settings, tmp_path) == "a.npz: examples of shape 1x2; data.shape says 2x2"
    assert read(settings, tmp_path).inputs.shape == (3, 2, 2)


OWN = """
import numpy as np
from fedprune.data import Dataset, Examples

one = np.ones((1, 1), np.float32)
train = Examples(np.arange(6, dtype=np.float16).reshape(3, 1, 2), np.array([0, 1, 1]))
test = Examples(np.ones((1, 1, 2), np.float16), np.array([0]))

def load(data_dir):
    return Dataset(str(data_dir), train, test, ("no", "yes"), (1, 2), one, one)

def windows(data_dir):
    return Dataset("own", train, None, ("no", "yes"), (1, 2), one, one, overlap=1)

def broken(data_dir):
    return {}["nothing"]
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with loaders."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "own_loaders.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "own_loaders", raising=False)
    return "own_loaders"


def test_a_loader_of_ones_own(tmp_path: Path, own_module: str) -> None:
    recorded = read(Data(f"{own_module}:load", "own"), tmp_path)
    assert recorded.inputs.dtype == np.float32
    assert recorded.inputs[:, 0, 0].tolist() == [0, 2, 4, 1]
    assert recorded.labels == ("no", "yes", "yes", "no")
    assert recorded.recordings == ("train#0", "train#1", "train#2", "test#0")


def test_a_loader_that_cannot_be_used_is_one_line(tmp_path: Path, own_module: str) -> None:
    with pytest.raises(DataError, match=r"own_loaders:windows: overlap is 1.*use data\.name = \"tables\""):
        read(Data(f"{own_module}:windows", "own"), tmp_path)
    with pytest.raises(DataError, match=r"own_loaders:broken: failed on .*: KeyError: 'nothing'"):
        read(Data(f"{own_module}:broken", "own"), tmp_path)
    with pytest.raises(DataError, match=r"nowhere: cannot be read \(No such file or directory\)"):
        read(Data(f"{own_module}:load", "own"), tmp_path / "nowhere")


@pytest.mark.parametrize("label", ["a\nb", "x" * 201, "\x1b[2J"])
def test_a_label_that_no_server_takes_is_a_line(tmp_path: Path, label: str) -> None:
    write_arrays(tmp_path / "a.npz", inputs=INPUTS, labels=["sit", "walk", label])
    write_arrays(tmp_path / "b.npz", inputs=INPUTS, labels=["sit", "walk", "sit"])
    recorded = read(ARRAYS, tmp_path)
    assert len(recorded) == 3
    assert len(recorded.problems) == 1
    assert "is no label, which has at most 200 letters, all of them printable" in recorded.problems[0]


@pytest.mark.parametrize("shape", [(3, 0), (3, 2, 0)])
def test_inputs_without_a_value_are_a_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_arrays(tmp_path / "a.npz", inputs=np.zeros(shape), labels=["sit", "walk", "sit"])
    assert "expected (n, C, ...)" in read(ARRAYS, tmp_path).problems[0]
