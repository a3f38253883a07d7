"""Files that people bring: ends of floats and bytes, several inputs and outputs, batches; compared with the runtime."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brought_files import byte_ends, float_ends, two_ends
from c99_files import Draft
from c99_runs import CHECKS, compiler
from export_files import changed, on_tensor
from typer.testing import CliRunner

from fedprune.cli.main import app
from fedprune.export import litert, tflm
from fedprune.export.c99 import boards
from fedprune.export.chip import benching, foreign
from fedprune.export.chip.brought import brought
from fedprune.export.litert.flatbuffer import File, FileTensor, pack
from fedprune.export.litert.reader import operator_name, read

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")


def facts(model: bytes) -> dict[str, object]:
    """Return the card of a model's C sources, which were built and compared."""
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    files = foreign.files(model, "theirs", compare=True)
    return dict(json.loads(files["model_card.json"]))


def same(model: bytes, inputs: int = 20) -> dict[str, object]:
    """Return the card, after asserting that all bits are TensorFlow Lite Micro's."""
    card = facts(model)
    assert card["compared"] == {"inputs": inputs, "beside": "TensorFlow Lite Micro", "differing": 0}
    return card


_ENDS = """
#include <stdio.h>
#include "model.h"
int main(void) {
  %s values[MODEL_INPUT_BYTES], scores[MODEL_OUTPUT_BYTES];
  while (fread(values, sizeof values, 1, stdin) == 1) {
    for (int i = 0; i < MODEL_INPUT_BYTES; i++) model_input()[i] = %s;
    const int8_t *found = model_run();
    for (int i = 0; i < MODEL_OUTPUT_BYTES; i++) scores[i] = %s;
    fwrite(scores, sizeof scores, 1, stdout);
  }
  return 0;
}
"""
_FLOATS = (
    "float",
    "model_from_float(values[i], MODEL_INPUT_SCALE, MODEL_INPUT_ZERO_POINT)",
    "model_to_float(found[i], MODEL_OUTPUT_SCALE, MODEL_OUTPUT_ZERO_POINT)",
)
_BYTES = ("uint8_t", "model_from_uint8(values[i])", "model_to_uint8(found[i])")


def reals() -> np.ndarray:
    random = np.random.default_rng(0)
    drawn = random.normal(0, 3, (20, 64)).astype(np.float32)
    drawn[1], drawn[2], drawn[3] = -1e7, 1e7, np.arange(64) * np.float32(0.05) * np.float32(0.5)  # halves
    return drawn


def some_bytes() -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, 256, (20, 64)).astype(np.uint8)
    drawn[1], drawn[2] = 0, 255
    return drawn


@pytest.mark.parametrize(
    ("model", "values", "code"),
    [
        (float_ends(), reals(), _FLOATS),
        (byte_ends(), some_bytes(), _BYTES),
        (byte_ends(0, 1 / 255), some_bytes(), _BYTES),
    ],
    ids=["floats", "bytes", "bytes that are rescaled"],
)
def test_ends_of_another_type_are_helpers_around_the_integers_inside(
    model: bytes, values: np.ndarray, code: tuple[str, str, str], tmp_path: Path
) -> None:
    card = same(model)
    what = "float32" if code is _FLOATS else "uint8"
    assert card["changed"] == [f"the model inside takes and gives int8; model.h has functions from and to {what}"]
    folder = foreign.write(model, tmp_path, "theirs").c99_source.parent
    (folder / "ends.c").write_text(_ENDS % code)
    subprocess.run([compiler(), *CHECKS, "ends.c", "model.c", "-o", "ends"], cwd=folder, check=True)
    ran = subprocess.run([folder / "ends"], input=values.tobytes(), check=True, capture_output=True).stdout
    wanted = tflm.levels(model, values)
    np.testing.assert_array_equal(np.frombuffer(ran, wanted.dtype).reshape(wanted.shape), wanted)


def test_the_file_for_the_stock_runtime_is_the_model_inside() -> None:
    file = read(foreign.files(float_ends(), "theirs")["model.tflite"])
    assert {operator_name(each) for each in file.operators}.isdisjoint({"QUANTIZE", "DEQUANTIZE"})
    assert {file.tensors[index].dtype.name for index in (*file.inputs, *file.outputs)} == {"int8"}


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


def test_a_layer_with_one_scale_is_rounded_as_the_runtime_does() -> None:
    """Sums that tell whether scales are multiplied in double precision: one filter a sum."""
    draft = Draft((1, 1, 1, 4), grid=(0.024790890514850616, 0))
    levels = np.random.default_rng(0).integers(-127, 128, (2006, 4)).astype(np.int8)
    last = draft.linear(draft.input, 2006, single=True, levels=levels, bias=np.arange(2006) * 977 - 980_000)
    same(draft.file(last))


def test_a_softmax_that_would_end_the_interpreter_is_compared_on_other_inputs() -> None:
    draft = Draft((1, 1, 1, 512), grid=(0.2, 11))
    same(draft.file(draft.unary("SOFTMAX", draft.input, (1 / 256, -128), beta=1.0)), 17)


def test_a_difference_is_an_error_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = byte_ends()
    facts(model)
    right = benching.expected
    others = lambda *given: (np.asarray(right(*given)[0]) ^ 1, "another runtime")  # noqa: E731
    monkeypatch.setattr("fedprune.export.chip.benching.expected", others)
    with pytest.raises(RuntimeError, match="the C differs from another runtime on 20 of 20 inputs: please report"):
        foreign.write(model, tmp_path / "out", "theirs")
    assert not (tmp_path / "out").exists()


def test_the_page_shows_what_to_do_with_floats(tmp_path: Path) -> None:
    """What step 10 shows, in a program around it."""
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    readme = (Path(__file__).parents[2] / "clients" / "microcontroller" / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("## 10.")[2].partition("```c\n")[2].partition("```")[0]
    folder = foreign.write(float_ends(), tmp_path, "theirs").c99_source.parent
    turns = "while (fread(values, sizeof values, 1, stdin) == 1) { run(); fwrite(scores, sizeof scores, 1, stdout); }"
    text = f'#include <stdio.h>\n#include "model.h"\n{shown}\nint main(void) {{ {turns} return 0; }}\n'
    (folder / "page.c").write_text(text)
    subprocess.run([compiler(), *CHECKS, "page.c", "model.c", "-o", "page"], cwd=folder, check=True)
    ran = subprocess.run([folder / "page"], input=reals().tobytes(), check=True, capture_output=True).stdout
    wanted = tflm.levels(float_ends(), reals())
    np.testing.assert_array_equal(np.frombuffer(ran, np.float32).reshape(wanted.shape), wanted)


def test_the_commands_say_what_was_changed_and_compared(tmp_path: Path) -> None:
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    (tmp_path / "theirs.tflite").write_bytes(byte_ends())
    for command in (["inspect"], ["export", "--to", "microcontroller"], ["export", "--to", "litert"], ["bench"]):
        ran = CliRunner().invoke(app, [command[0], str(tmp_path / "theirs.tflite"), *command[1:]])
        assert ran.exit_code == 0, ran.output
        if command[-1] == "microcontroller":
            said = "the C was compared with TensorFlow Lite Micro on 20 random and extreme inputs, with the same bits"
            assert said in " ".join(ran.output.split())
            assert "model.h has functions from and to uint8" in " ".join(ran.output.split())


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


def test_scales_of_a_bias_along_an_axis_that_it_lacks_are_read() -> None:
    draft = Draft((1, 6, 6, 2))
    model = draft.file(draft.conv(draft.input, 4, depthwise=True))
    bias = read(model).operators[0].inputs[2]

    def old(made: object) -> None:
        vars(made.subgraphs[0].tensors[bias].quantization).update(quantizedDimension=3)  # type: ignore[attr-defined]

    same(changed(old, read(model)))


def test_joined_maps_of_different_scales_are_named_as_the_runtimes_limit() -> None:
    draft = Draft((1, 6, 6, 2))
    other = draft.conv(draft.input, 2, grid=(0.31, 4))
    with pytest.raises(ValueError, match="CONCATENATION, joins maps of different scales, which TensorFlow Lite Micro"):
        foreign.files(draft.file(draft.concat([draft.input, other])), "theirs")


def test_what_no_kernel_covers_is_named_at_once() -> None:
    draft = Draft((1, 6, 6, 2))
    last = draft.unary("SIN", draft.unary("COS", draft.unary("SIN", draft.input)))
    with pytest.raises(ValueError, match=r"no C kernel covers SIN \(operator 0, 2\), COS \(operator 1\)$"):
        foreign.files(draft.file(last), "theirs")
    draft = Draft((1, 6, 6, 2))
    last = draft.conv(draft.input, 3)
    for index in (draft.input, last):
        draft.tensors[index] = replace(draft.tensors[index], dtype=np.dtype(np.uint8), zero_point=128)
    with pytest.raises(ValueError, match="works on uint8, as converters wrote before int8"):
        foreign.files(draft.file(last), "theirs")


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
