"""Inputs of any rank, several inputs and outputs, batches and masks: compared with the runtime."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brought_files import two_ends
from brought_runs import facts, same
from c99_files import Draft
from export_files import changed, on_tensor

from fedprune.export import litert, tflm
from fedprune.export.chip import foreign
from fedprune.export.chip.brought import brought
from fedprune.export.litert.flatbuffer import File, FileTensor, pack
from fedprune.export.litert.reader import read

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    model = two_ends()
    same(model)
    header = foreign.files(model, "theirs")["model.h"].decode()
    for macro in ("INPUT_BYTES 32", "INPUT_2_BYTES 24", "OUTPUT_BYTES 48", "OUTPUT_2_BYTES 5", "INPUT_2_WIDTH 8"):
        assert f"#define MODEL_{macro}\n" in header
    assert re.search(r"^int8_t \*model_input_2\(void\);$", header, re.MULTILINE)
    foreign.write(model, tmp_path, "theirs")
    ran = subprocess.run(["make", "-s", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len((tmp_path / "inputs.bin").read_bytes()) == 32 + 24
    zeros = tflm.levels(model, np.zeros((1, 56), np.int8))
    assert (tmp_path / "outputs.bin").read_bytes() == zeros.tobytes()


def test_an_input_that_nothing_reads_has_its_place() -> None:
    draft = Draft((1, 4, 4, 2))
    other = draft.activation((1, 6))
    last = draft.conv(draft.input, 3)
    same(pack(File(draft.tensors, draft.operators, (draft.input, other), (last,))))


def test_several_outputs_of_which_one_is_read_on() -> None:
    draft = Draft((1, 6, 6, 2))
    first = draft.conv(draft.input, 4)
    left, right = draft.parts("SPLIT", first, [(1, 6, 6, 2)] * 2, 3, numSplits=2)
    last = draft.both("ADD", left, right)
    same(pack(File(draft.tensors, draft.operators, (draft.input,), (last, first, right))))


def test_a_batch_of_two_is_fixed_to_one() -> None:
    draft = Draft((1, 6, 6, 2))
    last = draft.conv(draft.input, 4)
    scores = draft.linear(draft.reshape(last, (1, 144)), 3)
    one = draft.file(scores)
    twice = (draft.input, last, draft.operators[1].output, scores)
    for index in twice:
        draft.tensors[index] = replace(draft.tensors[index], shape=(2, *draft.tensors[index].shape[1:]))
    at = draft.operators[1].inputs[1]
    draft.tensors[at] = replace(draft.tensors[at], data=np.array([2, 144], np.int32))
    two = draft.file(scores)
    card = same(two)
    assert card["changed"] == ["the file's batch of 2 is fixed to one: each run takes one example"]
    assert foreign.files(two, "theirs")["model.c"] == foreign.files(one, "theirs")["model.c"]
    both = litert.rows(read(one), 2)
    np.testing.assert_array_equal(tflm.levels(two, both.reshape(1, -1)).reshape(2, -1), tflm.levels(one, both))


def test_a_batch_whose_examples_meet_stays() -> None:
    draft = Draft((2, 6, 6, 2))
    moved = draft.moved("TRANSPOSE", draft.input, (6, 2, 6, 2), [1, 0, 2, 3])
    assert brought(draft.file(moved)).file.tensors[0].shape == (2, 6, 6, 2)


@pytest.mark.parametrize("shape", [(2, 6, 6, 2), (0, 6, 6, 2), (-1, 6, 6, 2)])
def test_a_batch_that_may_grow_is_fixed_to_one(shape: tuple[int, ...]) -> None:
    draft = Draft((2, 6, 6, 2))
    draft.unary("RELU", draft.input)
    made = _both(draft, shape)
    assert brought(made).file.tensors[0].shape == (1, 6, 6, 2)
    same(made)


def _both(draft: Draft, shape: tuple[int, ...]) -> bytes:
    def change(model: object) -> None:
        for at in range(2):
            on_tensor(at, shape=[*shape], shapeSignature=[-1, 6, 6, 2])(model)

    return changed(change, read(draft.file(1)))


def mlp(*sizes: int) -> Callable[[Draft], int]:
    def made(draft: Draft) -> int:
        last = draft.input
        for size in sizes:
            last = draft.linear(last, size, single=True, clip=1, density=1)
        return last

    return made


def gap(draft: Draft) -> int:
    return draft.reduced("MEAN", draft.input, [1], keep=False, grid=(0.03, 3))


def sequence(draft: Draft) -> int:
    return draft.linear(draft.input, 6, single=True, positions=True)


def signal(draft: Draft) -> int:
    wide = draft.reshape(draft.input, (1, 1, 32, 3), "EXPAND_DIMS")
    last = draft.conv(wide, 8, (1, 3), same=False)
    return draft.linear(draft.reshape(draft.reshape(last, (1, 30, 8), "SQUEEZE"), (1, 240)), 4, single=True)


def sizes(draft: Draft) -> int:
    """RESHAPE to a shape that operators work out."""
    last = draft.conv(draft.input, 4)
    shape = draft._tensor(FileTensor((4,), np.dtype(np.int32)))
    draft.add("SHAPE", (last,), shape)
    first, both = (draft._tensor(FileTensor(each, np.dtype(np.int32))) for each in ((), (2,)))
    bounds = [draft.constant([each]) for each in (0, 1, 1)]
    draft.add("STRIDED_SLICE", (shape, *bounds), first, shrinkAxisMask=1)
    draft.add("PACK", (first, draft.constant(256)), both, valuesCount=2)
    flat = draft.add("RESHAPE", (last, both), draft.activation((1, 256), draft.grid(last)))
    return draft.linear(flat, 3, single=True)


@pytest.mark.parametrize(
    ("shape", "net"),
    [
        ((1, 10), mlp(16, 1)),
        ((1, 1), mlp(16, 1)),
        ((10,), lambda draft: draft.unary("RELU", draft.input)),
        ((1, 16, 8), gap),
        ((1, 5, 8), sequence),
        ((1, 32, 3), signal),
        ((1, 8, 8, 1), sizes),
        ((1, 2, 3, 4, 2), lambda draft: draft.unary("RELU", draft.input)),
    ],
    ids=["1xN", "scalar", "N", "mean of a signal", "a layer on a sequence", "signal", "sizes", "five axes"],
)
def test_inputs_of_any_rank(shape: tuple[int, ...], net: Callable[[Draft], int]) -> None:
    draft = Draft(shape)
    model = draft.file(net(draft))
    same(model)
    files = foreign.files(model, "theirs")
    size = str(int(np.prod(shape)))
    for name in ("model.h", "model_data.h"):
        assert f"#define MODEL_INPUT_BYTES {size}\n" in files[name].decode()


@pytest.mark.parametrize(
    ("shape", "bounds", "masks"),
    [
        ((1, 6, 5, 1), ([0, 1], [0, 2], [1, 1]), {"ellipsisMask": 1}),
        ((1, 1, 6, 5), ([0, 0, 0], [0, 0, 2], [1, 1, 1]), {"newAxisMask": 2, "ellipsisMask": 1, "shrinkAxisMask": 4}),
    ],
    ids=["the last of all axes", "an axis more and one less"],
)
def test_slices_with_masks(shape: tuple[int, ...], bounds: tuple[list[int], ...], masks: dict[str, int]) -> None:
    """TensorFlow Lite Micro has none of these masks, so the other runtime is the judge."""
    draft = Draft((1, 6, 5, 2))
    result = draft.activation(shape, draft.grid(draft.input))
    if "newAxisMask" in masks:
        draft.tensors[result] = replace(draft.tensors[result], shape=(1, 6, 5, 1))
    draft.add("STRIDED_SLICE", (draft.input, *map(draft.constant, bounds)), result, 4, **masks)
    seen = facts(draft.file(draft.unary("RELU", result)))["compared"]
    assert seen == {"inputs": 20, "beside": "LiteRT", "differing": 0}
