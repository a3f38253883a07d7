"""Models with activations of 16 bits and weights of 8: the bits of TensorFlow Lite Micro."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brought_runs import same
from c99_files import FINER, Draft, wide
from c99_runs import CHECKS, compiler

from fedprune.export import litert, tflm
from fedprune.export.c99 import boards
from fedprune.export.chip import foreign
from fedprune.export.litert.flatbuffer import FileTensor
from fedprune.export.litert.reader import ModelError, read

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")


def convolutions(draft: Draft) -> int:
    first = draft.conv(draft.input, 5, (3, 2), (2, 1), clip=1)
    second = draft.conv(first, 2, (3, 3), depthwise=True, clip=3)
    return draft.conv(draft.conv(second, 4, (1, 1), same=False), 6, (2, 2), dilation=(2, 1), same=False)


def linear(draft: Draft) -> int:
    flat = draft.reshape(draft.conv(draft.input, 3), (1, 192))
    return draft.linear(draft.linear(flat, 8, single=True, density=1, clip=1), 3, single=True, density=1)


def position(draft: Draft) -> int:
    last = draft.pool(draft.input, "AVERAGE_POOL_2D", (8, 8), (8, 8))
    return draft.conv(last, 5, (1, 1), density=1)


def pools(draft: Draft) -> int:
    first = draft.pool(draft.input, "AVERAGE_POOL_2D", (3, 2), (2, 2), same=True)
    return draft.pool(first, "MAX_POOL_2D", (2, 2), (1, 1), same=True, clip=3)


def both(draft: Draft) -> int:
    first, second = draft.conv(draft.input, 2), draft.conv(draft.input, 2)
    return draft.both("MUL", draft.both("SUB", draft.both("ADD", first, second, clip=1), draft.input), second)


def curves(draft: Draft) -> int:
    unit = (FINER / 2**15, 0)
    gate = draft.unary("LOGISTIC", draft.conv(draft.input, 2), unit, 3)
    return draft.both("MUL", gate, draft.unary("TANH", draft.input, unit, 3))


def moves(draft: Draft) -> int:
    padded = draft.pad(draft.input, [(0, 0), (1, 2), (0, 1), (0, 0)])
    turned = draft.moved("TRANSPOSE", padded, (1, 9, 11, 2), [0, 2, 1, 3])
    part = draft.slice(turned, (0, 1, 2, 0), (1, 9, 10, 2), (1, 2, 1, 1))
    return draft.concat([part, part], 3)


def mean(draft: Draft) -> int:
    return draft.mean(draft.conv(draft.input, 4))


@pytest.mark.parametrize("net", [convolutions, linear, position, pools, both, curves, moves, mean])
def test_activations_of_16_bits(net: Callable[[Draft], int]) -> None:
    draft = Draft((1, 8, 8, 2))
    same(wide(draft, net(draft)))


def test_layers_of_positions() -> None:
    draft = Draft((1, 5, 8))
    same(wide(draft, draft.linear(draft.input, 6, single=True, positions=True, density=1)))


@pytest.mark.parametrize("scale", [0.05, 0.3, 0.02, 0.0031, 1.7])
@pytest.mark.parametrize("into", [0.05, 0.07, 0.013])
def test_rectifiers(scale: float, into: float) -> None:
    draft = Draft((1, 4, 6, 5), grid=(scale, 0))
    slopes = [("LEAKY_RELU", {"alpha": slope}) for slope in (0.13, 1.5, 0.0)]
    kinds = [("RELU", {}), ("RELU6", {}), *slopes]
    last = [draft.unary(code, draft.input, (into, 0), **values) for code, values in kinds]
    same(wide(draft, *last))


@pytest.mark.parametrize("scale", [1e-5, 3e-4, 0.004, 0.1])
@pytest.mark.parametrize(("channels", "beta"), [(2, 1.0), (7, 0.5), (700, 1.0)])
def test_softmax(scale: float, channels: int, beta: float) -> None:
    draft = Draft((1, 3, 2, channels), grid=(scale * FINER, 0))
    same(wide(draft, draft.unary("SOFTMAX", draft.input, (FINER / 2**15, 0), beta=beta)))


def test_ends_of_both_types() -> None:
    draft = Draft((1, 8, 8, 2))
    other = draft.activation((1, 8, 8, 2), (0.05 / FINER, 0))
    draft.add("QUANTIZE", (draft.input,), other)
    last = draft.conv(other, 3)
    narrow = draft.activation((1, 8, 8, 3), (draft.grid(last)[0], 4))
    draft.add("QUANTIZE", (last,), narrow)
    same(wide(draft, narrow, kept=(draft.input, narrow)))


@pytest.mark.parametrize("target", ["host", "cortex-m0", "cortex-m4"])
def test_on_chips(target: str, tmp_path: Path) -> None:
    if boards.missing(target):
        pytest.skip(boards.missing(target) or "")
    draft = Draft((1, 8, 8, 2))
    last = draft.conv(draft.input, 3, clip=1)
    pooled = draft.pool(draft.both("ADD", last, last), "AVERAGE_POOL_2D", (3, 3), (2, 2))
    model = wide(draft, pooled)
    folder = foreign.write(model, tmp_path, "theirs").c99_source.parent
    header = (folder / "model.h").read_text()
    for line in ("int16_t *model_input(void);", "const int16_t *model_run(void);", "#define MODEL_OUTPUT_CHANNELS 3"):
        assert line in header
    assert "#define MODEL_INPUT_BYTES 256\n" in (folder / "model_data.h").read_text()
    given = litert.rows(read(model), 6)
    assert given.dtype == np.int16
    np.testing.assert_array_equal(boards.run(folder, target, given).outputs, tflm.levels(model, given))


_ENDS = """
#include <stdio.h>
#include "model.h"
int main(void) {
  float values[128], scores[MODEL_OUTPUT_BYTES / 2];
  while (fread(values, sizeof values, 1, stdin) == 1) {
    for (int i = 0; i < 128; i++)
      model_input()[i] = model_int16_from_float(values[i], MODEL_INPUT_SCALE, MODEL_INPUT_ZERO_POINT);
    const int16_t *found = model_run();
    for (int i = 0; i < MODEL_OUTPUT_BYTES / 2; i++)
      scores[i] = model_int16_to_float(found[i], MODEL_OUTPUT_SCALE, MODEL_OUTPUT_ZERO_POINT);
    fwrite(scores, sizeof scores, 1, stdout);
  }
  return 0;
}
"""


def test_floats_around_16_bits(tmp_path: Path) -> None:
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    draft = Draft((1, 8, 8, 2))
    draft.tensors[draft.input] = FileTensor((1, 8, 8, 2), np.dtype(np.float32))
    inner = draft.add("QUANTIZE", (draft.input,), draft.activation((1, 8, 8, 2), (0.05, 0)))
    last = draft.conv(inner, 3)
    draft.tensors.append(FileTensor((1, 8, 8, 3), np.dtype(np.float32)))
    model = wide(draft, draft.add("DEQUANTIZE", (last,), len(draft.tensors) - 1, 2))
    said = same(model)["changed"]
    assert said == ["the model inside takes and gives int16; model.h has functions from and to float32"]
    folder = foreign.write(model, tmp_path, "theirs").c99_source.parent
    (folder / "ends.c").write_text(_ENDS)
    subprocess.run([compiler(), *CHECKS, "ends.c", "model.c", "-o", "ends"], cwd=folder, check=True)
    given = np.random.default_rng(0).normal(0, 3, (20, 128)).astype(np.float32)
    ran = subprocess.run([folder / "ends"], input=given.tobytes(), check=True, capture_output=True).stdout
    np.testing.assert_array_equal(np.frombuffer(ran, np.float32).reshape(20, -1), tflm.levels(model, given))


def scales(draft: Draft) -> int:
    return draft.linear(draft.reshape(draft.input, (1, 128)), 3)


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (
            lambda draft: draft.unary("HARD_SWISH", draft.input),
            "operator 0, HARD_SWISH, works on int16, for which TensorFlow Lite Micro has no kernel$",
        ),
        (scales, "operator 1, FULLY_CONNECTED, has .* or scales for each filter"),
        (
            lambda draft: draft.unary("LEAKY_RELU", draft.input, alpha=-0.5),
            r"operator 0, LEAKY_RELU, has a slope of -0\.5",
        ),
        (lambda draft: draft.unary("ABS", draft.input), "operator 0, ABS, works on int16"),
    ],
)
def test_what_is_not_covered_is_named(net: Callable[[Draft], int], why: str) -> None:
    draft = Draft((1, 8, 8, 2))
    with pytest.raises(ModelError, match=f"^{why}"):
        foreign.files(wide(draft, net(draft)), "theirs")


def test_a_convolution_without_biases_is_refused() -> None:
    draft = Draft((1, 8, 8, 2))
    last = draft.conv(draft.input, 3)
    draft.operators[0] = replace(draft.operators[0], inputs=(*draft.operators[0].inputs[:2], -1))
    with pytest.raises(ModelError, match=r"^operator 0, CONV_2D, has no biases"):
        foreign.files(wide(draft, last), "theirs")
