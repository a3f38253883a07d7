"""Exported C built and run, here or on an emulated board: its outputs, instructions, flash, RAM and stack."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedprune.export.c99 import files
from fedprune.files import write_atomically
from fedprune.types import Tensor

_ERROR_LINES = 4


class Target(NamedTuple):
    """Something that exported C is built for. How is said in ``firmware/Makefile``, which knows it by ``name``.

    ``processor`` is for people; ``packages`` maps each program that is needed to the Debian package that brings it.
    """

    name: str
    processor: str
    packages: Mapping[str, str]


class Ran(NamedTuple):
    """What came of a run. On the host, where nothing is measured, all but the outputs is None.

    ``outputs``: int8 (inputs, MODEL_OUTPUT_BYTES). ``instructions``: of one ``model_run``, a mean over the inputs; they
    are not cycles. ``flash_bytes``: code, constants and startup of a program that does nothing but run the model.
    ``ram_bytes``: its static data, the arena in it. ``stack_bytes``: what ``model_run`` takes of the stack at its
    deepest.
    """

    outputs: NDArray[np.int8]
    instructions: int | None
    flash_bytes: int | None
    ram_bytes: int | None
    stack_bytes: int | None


_HERE = {"make": "make", "cc": "gcc"}
_BOARD = {"make": "make", "arm-none-eabi-gcc": "gcc-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"}

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("host", "this computer", _HERE),
        Target("cortex-m4", "Cortex-M4", _BOARD),
        Target("cortex-m3", "Cortex-M3", _BOARD),
        Target("cortex-m7", "Cortex-M7", _BOARD),
        Target("cortex-m0", "Cortex-M0", _BOARD),
        Target("cortex-m33", "Cortex-M33", _BOARD),
        Target("cortex-m55", "Cortex-M55", _BOARD),
    )
}


def missing(target: str) -> str | None:
    """Return None if ``target`` can be built and run here, or one line that says what to install.

    Raises ``ValueError`` for a target that is not in ``TARGETS``.
    """
    if target not in TARGETS:
        raise ValueError(f"target {target} is not known: {', '.join(TARGETS)}")
    lacking = {program: package for program, package in TARGETS[target].packages.items() if not shutil.which(program)}
    if not lacking:
        return None
    return f"{target} needs {', '.join(lacking)}. On Debian: apt install {' '.join(lacking.values())}"


def copy_firmware(folder: Path) -> list[Path]:
    """Write ``main.c``, ``Makefile``, ``link.ld`` and the rest beside the model in ``folder``; return their paths.

    Files of these names are replaced, each whole or not at all. Raises ``RuntimeError`` where fedprune was installed
    without them.
    """
    sources = sorted(files.folder("firmware").iterdir())
    for source in sources:
        write_atomically(folder / source.name, source.read_bytes())
    return [folder / source.name for source in sources]


def run(folder: Path, target: str, inputs: Tensor, *, optimise: str = "-O2", limit_seconds: float = 300) -> Ran:
    """Return what came of the model in ``folder``, built for ``target`` and run over ``inputs``.

    ``folder`` holds ``model.c`` and ``model.h``, and is left as it is.

    Args:
        inputs: (n, values), n at least 1, as the model takes them: int8, quantised and channels last, or int32 tokens;
            of a model of several inputs their bytes, one behind the other.
        optimise: the compiler's option, such as "-O2" or "-Os".
        limit_seconds: after which a build or a run that has not ended is stopped.

    Raises:
        ValueError: the target is not known, a file is missing, or the inputs do not fit ``model.h``.
        RuntimeError: a tool is missing, the model does not compile, or the run failed or took too long.
    """
    if lacking := missing(target):
        raise RuntimeError(lacking)
    source, header = folder / "model.c", folder / "model.h"
    for path in (source, header):
        if not path.is_file():
            raise ValueError(f"{path} is not there: an export to microcontroller writes it")
    input_bytes = _macros(header, r"MODEL_INPUT(?:_\d+)?_BYTES")
    text = header.read_text(encoding="utf-8")
    dtype = _type(text, r"^(int\d+)_t \*model_input")
    result = _type(text, r"^const (int\d+)_t \*model_(?:run|output)")
    if inputs.dtype != dtype or inputs.ndim != 2 or inputs[:1].nbytes != input_bytes:
        wanted = f"{dtype} (n, {input_bytes // dtype.itemsize})"
        raise ValueError(f"inputs of {inputs.dtype} {inputs.shape}: {header} takes {wanted}")
    with TemporaryDirectory() as name:
        work = Path(name)
        for path in (*files.folder("firmware").iterdir(), source, header):
            shutil.copyfile(path, work / path.name)
        (work / "inputs.bin").write_bytes(inputs.tobytes())
        make = ("make", "-s", f"TARGET={target}", f"OPTIMISE={optimise}")
        built = _done((*make, "all", "size"), work, f"{source} does not build for {target}", limit_seconds)
        said = _done((*make, "run"), work, f"{source} failed on {target}", limit_seconds)
        outputs = np.frombuffer((work / "outputs.bin").read_bytes(), result).reshape(len(inputs), -1)
    measured = json.loads(said.splitlines()[-1])
    flash_bytes, ram_bytes = _sizes(built)
    return Ran(outputs, measured["instructions"], flash_bytes, ram_bytes, measured["stack_bytes"])


def _type(header: str, declared: str) -> "np.dtype[Any]":
    """What the functions of a header give, those that are declared so; bytes where they differ."""
    found = {*re.findall(declared, header, re.MULTILINE)}
    return np.dtype(found.pop() if len(found) == 1 else np.int8)


def _sizes(said: str) -> tuple[int, int] | tuple[None, None]:
    """Flash and RAM in the table of arm-none-eabi-size: text, data, bss, their sum in decimal and hexadecimal, name."""
    row = re.search(r"^\s*(\d+)\s+(\d+)\s+(\d+)\s+\d+\s+[0-9a-f]+\s+\S+$", said, re.MULTILINE)
    if row is None:
        return None, None
    text, data, bss = map(int, row.groups())
    return text + data, data + bss


def _macros(header: Path, name: str) -> int:
    # the sum of those of that name
    found = re.findall(rf"^#define {name} +(\d+)\b", header.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError(f"{header} does not define {name.replace(_NUMBERED, '')} as a number")
    return sum(map(int, found))


_NUMBERED = r"(?:_\d+)?"


def _done(command: tuple[str, ...], folder: Path, failure: str, limit_seconds: float) -> str:
    # A make that called us, or a compiler named in the environment, must not change what is built.
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key not in ("MFLAGS", "CC")
    }
    with subprocess.Popen(
        command,
        cwd=folder,
        env=kept,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that the emulator, a grandchild, ends with make
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit_seconds)
        except BaseException as stopped:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(stopped, subprocess.TimeoutExpired):
                raise RuntimeError(f"{failure}: not done after {limit_seconds:g} s") from None
            raise
    if process.returncode != 0:
        lines = said.splitlines()
        errors = [
            line for line in lines if re.search(r"/ld: |(?<!collect2: )error: |undefined reference", line)
        ] or lines
        raise RuntimeError("\n".join([f"{failure}:", *errors[:_ERROR_LINES]]))
    return said
