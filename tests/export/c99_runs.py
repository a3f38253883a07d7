"""Models on this machine: TensorFlow Lite Micro's outputs, and those of C sources built with every check."""

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.export.c99 import Sources
from fedprune.export.litert import noise, ports
from fedprune.export.litert.reader import read

WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
CHECKS = (*WARNINGS, "-fsanitize=address,undefined", "-fno-sanitize-recover")


def inputs(model: bytes, count: int, seed: int = 0) -> np.ndarray:
    """Return int8 inputs (count, ...) over the whole grid: the extremes first, then even and peaked random ones.

    Tokens are random ones.
    """
    port = ports(read(model)).input
    if port.vocabulary:
        return np.concatenate([noise(port, seed + at) for at in range(count)])
    shape = port.shape[1:]  # also of what TensorFlow Lite Micro does not run
    random = np.random.default_rng(seed)
    drawn = [np.full(shape, -128), np.full(shape, 127), np.where(random.random(shape) < 0.5, -128, 127)]
    while len(drawn) < count:
        drawn.append(random.integers(-128, 128, shape))
        drawn.append(np.clip(np.rint(random.normal(-3, 25, shape)), -128, 127))
    return np.stack(drawn[:count]).astype(np.int8)


def _interpreter(model: bytes) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_bytes(model, arena_size=4 << 20)


def tflm(model: bytes, samples: np.ndarray) -> np.ndarray:
    """Return TensorFlow Lite Micro's int8 outputs, (samples, bytes)."""
    interpreter = _interpreter(model)
    outputs = []
    for sample in samples:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).reshape(-1).copy())
    return np.stack(outputs)


_MAIN = r"""#include <stdio.h>
#include "model.h"
int main(void) {
  while (fread(model_input(), 1, MODEL_INPUT_BYTES, stdin) == MODEL_INPUT_BYTES)
    if (fwrite(model_run(), 1, MODEL_OUTPUT_BYTES, stdout) != MODEL_OUTPUT_BYTES) return 1;
  return 0;
}
"""


def written(sources: Sources, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.h").write_text(sources.header)
    (folder / "model.c").write_text(sources.source)
    return folder


def computed(sources: Sources, samples: np.ndarray, folder: Path, flags: Sequence[str] = CHECKS) -> np.ndarray:
    """Return the C program's int8 outputs, (samples, bytes), built with every warning and check as errors."""
    return computed_in(written(sources, folder), samples, flags)


def computed_in(folder: Path, samples: np.ndarray, flags: Sequence[str] = CHECKS) -> np.ndarray:
    """The same of model.h and model.c in a folder."""
    (folder / "whole.c").write_text(_MAIN)
    command = [compiler(), *flags, "whole.c", "model.c", "-o", "program"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([folder / "program"], input=samples.tobytes(), capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    return np.frombuffer(ran.stdout, np.int8).reshape(len(samples), -1)


@cache
def compiler() -> str:
    import pytest

    found = shutil.which("gcc")
    if found is None:
        pytest.skip("gcc is not installed. On Debian: apt install gcc")
    return found
