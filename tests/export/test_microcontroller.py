"""On a microcontroller: the bits of the reference kernels, a measured arena, C that compiles, a card that is true."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_nets import NETS, Residual, made
from torch import nn

from fedprune import graph as graphs
from fedprune.export import c99, litert, tflm
from fedprune.export.chip import benching
from fedprune.export.chip.card import C99_FORMS
from fedprune.export.chip.write import write_c

CARD = {
    "labels": [*"abcdefgh", 'quote " and \\', "ñandú"],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 1],
    "accuracy": 0.875,
}


def written_int8(model: nn.Module, inputs: torch.Tensor) -> bytes:
    graph = graphs.inference(graphs.trace(model, inputs))
    return litert.write_int8(graph, litert.calibrate(graph, inputs.numpy()))


@pytest.fixture(scope="module")
def residual() -> bytes:
    return written_int8(*made(Residual))


@pytest.mark.parametrize("kind", NETS)
def test_the_same_bits_as_the_reference_kernels(kind: type[nn.Module]) -> None:
    pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")
    model, inputs = made(kind)
    file = written_int8(model, inputs)
    found, arena_bytes = tflm.run(file, inputs.numpy())
    np.testing.assert_array_equal(found, litert.run(file, inputs.numpy(), reference=True))
    assert 1_000 < arena_bytes < 20_000


def test_without_the_interpreter_the_error_says_what_to_install(
    residual: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro.python.tflite_micro", None)
    with pytest.raises(RuntimeError, match="pip install tflite-micro"):
        tflm.run(residual, np.zeros((1, 3, 16, 16), np.float32))


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("gcc", "c11"), ("g++", "c++11"), ("g++", "c++17")])
def test_sources_compile_without_a_warning_and_hold_the_bytes(
    compiler: str, standard: str, residual: bytes, tmp_path: Path
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    paths = write_c(residual, tmp_path, {**CARD, "arena_bytes": 8001})
    language = "c++" if compiler == "g++" else "c"
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include <string.h>\n#include "model_data.h"\n'
        "int main(void) {\n"
        "  size_t i, sum = 0;\n"
        "  for (i = 0; i < sizeof model_data; ++i) sum += model_data[i];\n"
        '  printf("%d %lu %d %d %.9g %d %s %s", (int)((size_t)model_data % 16), (unsigned long)sum, MODEL_DATA_BYTES,\n'
        "         MODEL_ARENA_BYTES, MODEL_INPUT_SCALE, MODEL_INPUT_ZERO_POINT, model_labels[8], model_labels[9]);\n"
        "  return 0;\n}\n"
    )
    strict = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic", "-x", language]
    sources = [str(tmp_path / "main.c"), str(paths.source)]
    subprocess.run([compiler, *strict, *sources, "-o", str(tmp_path / "out")], check=True)
    said = subprocess.run([str(tmp_path / "out")], check=True, capture_output=True, text=True, encoding="utf-8").stdout
    grid = litert.quantisation(residual).input.grid
    assert grid is not None
    expected = f"0 {sum(residual)} {len(residual)} 8016 {grid.scale:.9g} {grid.zero_point} {CARD['labels'][8]} ñandú"
    assert said == expected


def test_card_says_what_the_model_is(residual: bytes, tmp_path: Path) -> None:
    given = {**CARD, "arena_bytes": 8001, "size_bytes": {"float32 .tflite": 99}, "rounds": 12}
    paths = write_c(residual, tmp_path / "new", given)
    card = json.loads(paths.card_json.read_text(encoding="utf-8"))
    grid = litert.quantisation(residual).output.grid
    assert grid is not None
    assert card["output"] == {
        "shape": [1, 1, 1, 10],
        "dtype": "int8",
        "scale": grid.scale,
        "zero_point": grid.zero_point,
    }
    assert card["sha256"] == hashlib.sha256(residual).hexdigest()
    assert card["labels"] == CARD["labels"]
    assert (card["flash_bytes"], card["arena_bytes"], card["rounds"]) == (len(residual), 8001, 12)
    assert set(card["size_bytes"]) == {"float32 .tflite", "int8 .tflite", "int8 .tflite, gzip", *C99_FORMS}
    assert [card["size_bytes"][form] for form in C99_FORMS] == [card[key] for key in C99_FORMS.values()]
    made = c99.generate(residual)
    assert card["c99_constants_bytes"] == made.constants_bytes
    assert card["c99_flash_bytes_predicted"] == made.flash_bytes_predicted
    page = paths.card_page.read_text(encoding="utf-8")
    assert all(text in page for text in ("87.50 %", card["sha256"], "ñandú", "| Rounds | 12 |"))
    assert f"{made.constants_bytes:,} bytes of weights and tables; about {made.flash_bytes_predicted:,} bytes" in page


def test_a_model_that_tensorflow_lite_micro_does_not_run_has_c_all_the_same(tmp_path: Path) -> None:
    """GELU, of which it has no kernel."""
    torch.manual_seed(0)
    file = written_int8(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)), torch.randn(20, 6))
    written = write_c(file, tmp_path, {"labels": [*"abc"], "mean": [0], "std": [1], "arena_bytes": None})
    assert (written.source, written.header) == (None, None)
    assert not list(tmp_path.glob("model_data*"))
    assert all(path.is_file() for path in written.paths())
    assert {"model.c", "model.h", "model_card.md", "Makefile"} <= {path.name for path in written.paths()}
    assert json.loads(written.card_json.read_text(encoding="utf-8"))["arena_bytes"] is None
    assert "does not run this model" in written.card_page.read_text(encoding="utf-8")


def test_outputs_of_c_are_held_to_kernels_that_have_all_of_its_operators() -> None:
    pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")
    torch.manual_seed(0)
    inputs = torch.randn(20, 6)
    found = {}
    for name, middle in {
        "relu": nn.ReLU(),
        "gelu": nn.GELU(),
        "both": nn.Sequential(nn.LayerNorm(8), nn.GELU()),
    }.items():
        file = written_int8(nn.Sequential(nn.Linear(6, 8), middle, nn.Linear(8, 3)), inputs)
        found[name] = benching.expected(file, benching.noise(file))[1]
    assert found == {"relu": "TensorFlow Lite Micro", "gelu": "LiteRT", "both": ""}


def test_a_card_that_does_not_fit_is_refused(residual: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs labels, mean"):
        write_c(residual, tmp_path, {"std": [1, 1, 1]})
    with pytest.raises(ValueError, match="2 labels"):
        write_c(residual, tmp_path, {**CARD, "labels": ["a", "b"], "arena_bytes": 1})
    with pytest.raises(ValueError, match="mean of 1 and std of 3"):
        write_c(residual, tmp_path, {**CARD, "mean": [0], "arena_bytes": 1})
    floats = litert.write_float(graphs.inference(graphs.trace(*made(Residual))))
    with pytest.raises(ValueError, match="float"):
        write_c(floats, tmp_path, {**CARD, "arena_bytes": 1})
    assert not list(tmp_path.iterdir())


def test_importing_the_exporters_loads_neither_torch_nor_a_converter() -> None:
    check = "import sys, fedprune.export.litert, fedprune.export.tflm as m; "
    check += "assert not {'torch', 'ai_edge_litert', 'tflite_micro', 'flatbuffers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
