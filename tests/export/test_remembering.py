"""Operators with variables of their own, SVDF and LSTM: run after run the bits of TensorFlow Lite Micro."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from c99_files import Draft
from c99_runs import computed_in

from fedprune.export import litert, tflm
from fedprune.export.c99 import boards
from fedprune.export.chip import foreign
from fedprune.export.inspection.file import inspect
from fedprune.export.litert.flatbuffer import FileOperator, FileTensor
from fedprune.export.litert.reader import ModelError, read

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")


def svdf(
    draft: Draft, source: int, units: int = 4, rank: int = 2, memory: int = 5, wide: Any = np.int16,
    scale: float | None = None, time_scale: float = 1 / 128, **options: Any,
) -> int:  # fmt: skip
    """Add SVDF, with a memory of int8 or int16."""
    count, size = units * rank, draft.shape(source)[1]
    limit = np.iinfo(wide).max
    scale = scale or (1 / 2048 if wide is np.int16 else 1 / 16)
    feature = draft.constant(draft.levels((count, size), 0.7), np.int8, scales=np.array([0.004], np.float32))
    levels = draft.random.integers(-limit // 4, limit // 4 + 1, (count, memory))
    time = draft.constant(levels, wide, scales=np.array([time_scale], np.float32))
    bias_scale = np.array([np.float32(scale) * np.float32(time_scale)], np.float32)
    spread = 200 if wide is np.int8 else 30000
    bias = draft.constant(draft.random.integers(-spread, spread, units), np.int32, scales=bias_scale)
    grid = np.array([scale], np.float32)
    draft.tensors.append(FileTensor((1, count * memory), np.dtype(wide), None, grid, variable=True))
    state = len(draft.tensors) - 1
    made = schema.SVDFOptionsT(rank=rank, fusedActivationFunction=options.pop("clip", 1))
    result = draft.activation((1, units), options.pop("grid", (0.04, -11)))
    number, kind = schema.BuiltinOperator.SVDF, schema.BuiltinOptions.SVDFOptions
    draft.operators.append(FileOperator(number, 3, (source, feature, time, bias, state), result, made, kind))
    return result


def lstm(
    draft: Draft, source: int, units: int = 5, cell: float = 2.0**-11, grid: tuple[float, int] = (1 / 128, 0),
    **options: Any,
) -> int:  # fmt: skip
    """Add UNIDIRECTIONAL_SEQUENCE_LSTM."""
    shape, inputs = draft.shape(source), [source]
    for size in [shape[2]] * 4 + [units] * 4:
        levels = draft.levels((units, size), 0.9)
        inputs.append(draft.constant(levels, np.int8, scales=np.array([draft.random.uniform(0.002, 0.02)], np.float32)))
    inputs += [-1] * 3
    inputs += [draft.constant(draft.random.integers(-900, 900, units)) for _ in range(4)]
    inputs += [-1] * 2
    for dtype, (scale, zero) in ((np.int8, grid), (np.int16, (cell, 0))):
        kept = FileTensor((1, units), np.dtype(dtype), None, np.array([scale], np.float32), zero, variable=True)
        draft.tensors.append(kept)
        inputs.append(len(draft.tensors) - 1)
    made = schema.UnidirectionalSequenceLSTMOptionsT(fusedActivationFunction=options.pop("activation", 4), **options)
    result = draft.activation((*shape[:2], units), grid)
    number = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    kind = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
    draft.operators.append(FileOperator(number, 1, (*inputs, *[-1] * 4), result, made, kind))
    return result


def same(model: bytes, folder: Path, runs: int = 40) -> None:
    """Assert that the C remembers as the runtime does."""
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    files = foreign.files(model, "theirs", compare=True)
    seen = json.loads(files["model_card.json"])["compared"]
    assert seen == {"inputs": 20, "beside": "TensorFlow Lite Micro", "differing": 0}
    written = foreign.write(model, folder, "theirs").c99_source.parent
    given = np.concatenate([litert.rows(read(model), runs // 2)] * 2)
    wanted = tflm.levels(model, given)
    assert len(np.unique(wanted, axis=0)) > runs // 4
    np.testing.assert_array_equal(computed_in(written, given), wanted)
    if not boards.missing("cortex-m4"):
        np.testing.assert_array_equal(boards.run(written, "cortex-m4", given).outputs, wanted)


@pytest.mark.parametrize(
    ("rank", "memory", "values"),
    [
        (1, 1, {}),
        (2, 5, {}),
        (3, 8, {"wide": np.int8, "grid": (0.6, 4)}),
        (2, 5, {"wide": np.int8, "scale": 1 / 300}),
        (2, 5, {"scale": 1e-6, "grid": (1e-5, 4)}),
        (2, 5, {"grid": (0.001, 100), "clip": 0}),
    ],
    ids=["one", "rank", "bytes", "clipped bytes", "clipped halves", "clipped outputs"],
)
def test_svdf(rank: int, memory: int, values: dict[str, Any], tmp_path: Path) -> None:
    draft = Draft((1, 12))
    same(draft.file(svdf(draft, draft.input, 4, rank, memory, **values)), tmp_path)


def test_layers_one_behind_the_other(tmp_path: Path) -> None:
    draft = Draft((1, 12))
    first = svdf(draft, draft.input, 6, 1, 3)
    model = draft.file(draft.linear(svdf(draft, first, 4, 2, 5), 3, density=1))
    same(model, tmp_path)
    assert [row.operator for row in inspect(model).rows] == ["SVDF", "SVDF", "FULLY_CONNECTED"]


def test_what_is_no_svdf_is_named() -> None:
    draft = Draft((1, 12))
    last = svdf(draft, draft.input)
    operator = draft.operators[0]

    def refused(match: str, **changes: Any) -> None:
        draft.operators[0] = replace(operator, **changes)
        with pytest.raises(ModelError, match=rf"^operator 0, SVDF, {match}"):
            foreign.files(draft.file(last), "theirs")

    refused("has no variable", inputs=(*operator.inputs[:4], -1))
    refused("has weights of shapes", options=schema.SVDFOptionsT(rank=3, fusedActivationFunction=1))
    refused("has a fused activation of kind 3", options=schema.SVDFOptionsT(rank=2, fusedActivationFunction=3))
    draft.tensors[operator.inputs[4]] = replace(draft.tensors[operator.inputs[4]], zero_point=3)
    refused("has a memory with a zero point")


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ((1, 6, 4), {}),
        ((1, 1, 4), {}),
        ((6, 1, 4), {"timeMajor": True}),
        ((1, 6, 4), {"cell": 2.0**-15, "grid": (1 / 100, 11)}),
        ((1, 6, 4), {"cell": 2.0**-9, "grid": (1 / 140, -5)}),
        ((1, 9, 4), {"cellClip": 0.25}),
    ],
    ids=["steps", "one step", "steps first", "a fine cell", "a coarse cell", "a clipped cell"],
)
def test_lstm(shape: tuple[int, ...], values: dict[str, Any], tmp_path: Path) -> None:
    draft = Draft(shape)
    same(draft.file(lstm(draft, draft.input, **values)), tmp_path)


def test_lstms_one_behind_the_other(tmp_path: Path) -> None:
    draft = Draft((1, 6, 4))
    last = lstm(draft, lstm(draft, draft.input), 3)
    same(draft.file(draft.linear(draft.reshape(last, (1, 18)), 4, density=1)), tmp_path)


def test_what_is_no_lstm_is_named() -> None:
    draft = Draft((1, 6, 4))
    last = lstm(draft, draft.input)
    operator = draft.operators[0]

    def refused(match: str, **changes: Any) -> None:
        draft.operators[0] = replace(operator, **changes)
        with pytest.raises(ModelError, match=rf"^operator 0, UNIDIRECTIONAL_SEQUENCE_LSTM, {match}"):
            foreign.files(draft.file(last), "theirs")

    refused("has not 24 inputs", inputs=operator.inputs[:20])
    relu = schema.UnidirectionalSequenceLSTMOptionsT(fusedActivationFunction=1)
    refused("has another activation than TANH", options=relu)
    draft.tensors[operator.inputs[19]] = replace(draft.tensors[operator.inputs[19]], scales=np.float32([0.001]))
    refused(r"has a cell of scale 0\.001")


@pytest.mark.parametrize("place", [9, 11, 16, 20], ids=["peephole", "last peephole", "projection", "layer norm"])
def test_an_lstm_that_no_runtime_takes_is_named(place: int) -> None:
    draft = Draft((1, 6, 4))
    last = lstm(draft, draft.input)
    tflm.arena_bytes(draft.file(last))
    places = [*draft.operators[0].inputs]
    weights = draft.random.integers(-9000, 9000, (5, 5) if place == 16 else 5)
    wide = np.int8 if place == 16 else np.int16
    places[place] = draft.constant(
        weights // (100 if place == 16 else 1), wide, scales=np.array([2.0**-14], np.float32)
    )
    draft.operators[0] = replace(draft.operators[0], inputs=(*places,))
    with pytest.raises(RuntimeError, match="failed to prepare"):
        tflm.arena_bytes(draft.file(last))
    with pytest.raises(ModelError, match=f"has an input {place}: peepholes, .* and TensorFlow Lite Micro takes none$"):
        foreign.files(draft.file(last), "theirs")
