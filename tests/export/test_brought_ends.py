"""Files with ends of floats or bytes: functions in C around the integers inside, as the runtime gives them."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from brought_files import byte_ends, float_ends
from brought_runs import same
from c99_runs import CHECKS, compiler

from fedprune.export import tflm
from fedprune.export.c99 import boards
from fedprune.export.chip import foreign
from fedprune.export.litert.reader import operator_name, read

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")


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
