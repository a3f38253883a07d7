"""A float .tflite that somebody brings, quantised on the way by examples."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from c99_files import Draft
from export_files import small
from export_nets import NETS
from torch import nn
from typer.testing import CliRunner

from fedprune.cli.main import app
from fedprune.export import litert
from fedprune.export.c99 import boards
from fedprune.export.chip import foreign
from fedprune.export.chip.brought import brought
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.interpreter import arrange
from fedprune.export.litert.reader import read
from fedprune.export.litert.sparsity import by_rows

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")


def shape(model: bytes) -> tuple[int, ...]:
    file = read(model)
    return file.tensors[file.inputs[0]].shape[1:]


def some(model: bytes, count: int = 60) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (count, *shape(model))).astype(np.float32)


def outputs(model: bytes, given: np.ndarray) -> np.ndarray:
    """Return the floats of a model, given inputs channels last."""
    return litert.run(model, np.moveaxis(given, -1, 1), reference=True)


@pytest.mark.parametrize("kind", NETS, ids=lambda kind: kind.__name__)
def test_a_float_file_is_quantised_by_examples(kind: type[nn.Module], tmp_path: Path) -> None:
    model = small(kind)[1]
    given = some(model)
    np.savez(tmp_path / "some.npz", x=given, y=np.zeros(len(given)))
    found = brought(model, tmp_path / "some.npz")
    file = found.file
    types = {file.tensors[index].dtype.name for operator in file.operators for index in operator.outputs}
    assert types == {"int8"}
    assert found.inputs == found.outputs == ("float32",)
    whole, exact = outputs(pack(file), given[:20]), outputs(model, given[:20])
    noise = ((whole - exact) ** 2).mean() / exact.var()
    assert noise < 0.01
    if not boards.missing("host"):
        card = json.loads(foreign.files(model, "theirs", compare=True, data=tmp_path / "some.npz")["model_card.json"])
        assert card["compared"] == {"inputs": 20, "beside": "TensorFlow Lite Micro", "differing": 0}
        assert card["changed"][0] == "quantised to int8 by the extremes over 60 examples"


@pytest.mark.parametrize("unpacked", [True, False], ids=["behind DENSIFY", "read as they are"])
def test_weights_without_their_zeros_are_quantised_like_those_with_them(unpacked: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    levels = np.where(random.random((3, 6)) < 0.4, random.normal(size=(3, 6)), 0).astype(np.float32)
    float32 = np.dtype(np.float32)
    weight = FileTensor((3, 6), float32, levels)
    tensors = [FileTensor((1, 6), float32), by_rows(weight), FileTensor((1, 3), float32), FileTensor((3, 6), float32)]
    layer = Draft((1, 6))
    layer.add("FULLY_CONNECTED", (0, 3 if unpacked else 1, -1), 2)
    densify = FileOperator(schema.BuiltinOperator.DENSIFY, 1, (1,), 3, None, 0)
    sparse = pack(File(tensors, [densify, *layer.operators] if unpacked else layer.operators, (0,), (2,)))
    layer.operators[:] = [replace(layer.operators[0], inputs=(0, 1, -1))]
    plain = pack(File([tensors[0], weight, tensors[2]], layer.operators, (0,), (2,)))
    np.savez(tmp_path / "some.npz", random.normal(size=(20, 6)).astype(np.float32))
    files = [foreign.files(model, "theirs", data=tmp_path / "some.npz") for model in (sparse, plain)]
    assert files[0]["model.c"] == files[1]["model.c"]


def joined() -> bytes:
    """A sigmoid and a convolution side by side, joined, padded, with constants added."""
    draft = Draft((1, 6, 6, 2))
    draft.tensors[draft.input] = single = FileTensor((1, 6, 6, 2), np.dtype(np.float32))

    def floats(*sizes: int) -> int:
        draft.tensors.append(FileTensor(sizes, np.dtype(np.float32)))
        return len(draft.tensors) - 1

    def constant(*sizes: int) -> int:
        return draft.constant(draft.random.normal(0, 0.3, sizes), np.float32)

    assert single.dtype == np.float32
    window = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0}
    left = draft.add("CONV_2D", (0, constant(3, 3, 3, 2), constant(3)), floats(1, 6, 6, 3), **window)
    right = draft.add("LOGISTIC", (left,), floats(1, 6, 6, 3))
    both = draft.add("CONCATENATION", (left, right), floats(1, 6, 6, 6), axis=3)
    wide = draft.add("PAD", (both, draft.constant([[0, 0], [1, 1], [0, 0], [0, 0]])), floats(1, 8, 6, 6))
    moved = draft.add("MUL", (wide, constant(1, 1, 1, 6)), floats(1, 8, 6, 6))
    leaked = draft.add("PRELU", (moved, constant(1, 1, 6)), floats(1, 8, 6, 6))
    flat = draft.add("RESHAPE", (leaked, draft.constant([1, 288])), floats(1, 288))
    last = draft.add("FULLY_CONNECTED", (flat, constant(4, 288), -1), floats(1, 4))
    return draft.file(draft.add("SOFTMAX", (last,), floats(1, 4), beta=1.0))


def test_what_has_a_grid_of_its_own_is_put_on_that_of_what_it_joins(tmp_path: Path) -> None:
    model = joined()
    np.save(tmp_path / "one.npy", some(model)[:30])
    np.save(tmp_path / "two.npy", some(model)[30])
    file = brought(model, tmp_path).file
    assert len(pack(file)) < len(model)
    exact, whole = outputs(model, some(model)[:20]), outputs(pack(file), some(model)[:20])
    assert np.abs(whole - exact).max() < 0.05
    assert "over 31 examples" in brought(model, tmp_path).said[0]


def test_examples_may_lack_the_axes_of_one(tmp_path: Path) -> None:
    draft = Draft((1, 8, 8, 1))
    port = FileTensor((1, 8, 8, 1), np.dtype(np.float32))
    file = File([port, port], [], (0,), (1,))
    np.savez(tmp_path / "a.npz", images=np.ones((5, 8, 8), np.uint8))
    from fedprune.export.litert.examples import examples

    assert draft.input == 0
    assert [each[0].shape for each in examples(file, tmp_path / "a.npz")] == [(8, 8, 1)] * 5


def bad(tmp_path: Path, what: str) -> Path:
    path = tmp_path / "bad.npz"
    if what == "shape":
        np.savez(path, x=np.zeros((4, 3, 7, 7)))
    elif what == "text":
        np.savez(path, x=np.array(["a", "b"]))
    elif what == "none":
        path.mkdir()
    elif what == "damaged":
        path.write_bytes(b"PK\3\4 no archive")
    elif what == "nan":
        np.savez(path, x=np.full((4, 6, 6, 2), np.nan))
    elif what == "labels":
        np.savez(path, y=np.zeros(4))
    return path


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("shape", r"has an array of shape \(4, 3, 7, 7\); the model takes \(6, 6, 2\), channels last, each"),
        ("text", "has an array of <U1, which are no numbers"),
        ("none", "holds neither .npy nor .npz files"),
        ("damaged", "cannot be read as numpy writes it"),
        ("nan", "has values that are not finite"),
        ("labels", "has 0 arrays for the model's 1 inputs"),
        ("missing", "is neither an .npz nor an .npy nor a folder of them"),
    ],
)
def test_examples_that_do_not_fit_are_one_line_and_nothing_is_written(what: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "theirs.tflite").write_bytes(joined())
    data = bad(tmp_path, what)
    for target in ("microcontroller", "litert"):
        ran = CliRunner().invoke(
            app, ["export", str(tmp_path / "theirs.tflite"), "--to", target, "--calibrate", str(data)]
        )
        assert ran.exit_code == 2 or ran.exception is not None
        assert not (tmp_path / f"theirs_{target}").exists()
    with pytest.raises(ValueError, match=line):
        brought(joined(), data)


def test_a_float_file_without_examples_says_how() -> None:
    with pytest.raises(ValueError, match="--calibrate DATA quantises it on the way, DATA being example inputs"):
        foreign.files(joined(), "theirs")
    draft = Draft((1, 4))
    with pytest.raises(ValueError, match="does not compute in floats: there is nothing to calibrate"):
        brought(draft.file(draft.unary("RELU", draft.input)), Path("x.npz"))


def test_the_int8_file_of_a_float_one(tmp_path: Path) -> None:
    (tmp_path / "theirs.tflite").write_bytes(joined())
    np.savez(tmp_path / "some.npz", x=some(joined()))
    given = ["export", str(tmp_path / "theirs.tflite"), "--to", "litert", "--calibrate", str(tmp_path / "some.npz")]
    ran = CliRunner().invoke(app, given)
    assert ran.exit_code == 0, ran.output
    found = litert.ports(read((tmp_path / "theirs_litert" / "model.tflite").read_bytes()))
    assert found.input.grid is not None
    assert arrange(np.zeros((1, 2, 6, 6), np.float32), found.input).dtype == np.int8
