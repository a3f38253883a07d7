"""A .tflite that somebody brings, against the real command line: one line or all its files, and nothing outside."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simulations.benchmarks.fuzzing import tflite
from simulations.benchmarks.soak.outcome import HELD, Failed, Hazard, Outcome
from simulations.benchmarks.soak.stage import ACTOR, CLI, ROOT

_FILES, _INPUTS = 60, 80
_LIMIT_S = 120.0
_MOST_MIB = 600.0
_MEASURED = (
    "import resource, subprocess, sys; ended = subprocess.call(sys.argv[2:]); "
    "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)); sys.exit(ended)"
)
"""A program that runs a command, and writes the most KiB that it took to a file."""


def damaged(folder: Path) -> Outcome:
    """Changed files, each exported by a command of its own."""
    refused = written = 0
    for number in range(_FILES):
        file = folder / f"{number}.tflite"
        file.write_bytes(_changed(number))
        if _said(_export(folder, file)):
            refused += 1
        else:
            written += 1
        made = folder / f"{number}_microcontroller"
        if made.exists() and not (made / "Makefile").exists():
            raise Failed(f"file {number} was refused, and a part of what it gives is there")
    return Outcome(f"{written} of {_FILES} exported, {refused} refused", "nothing", "one line for each", HELD)


def damaged_quick(folder: Path) -> Outcome:
    """Changed files, as the command would take them, in one process."""
    (kind,) = tflite.TARGETS.values()
    refused, interpreter = 0, 0
    for number in range(_INPUTS):
        try:
            kind.run(_changed(number))
        except kind.documented as error:
            refused, interpreter = refused + 1, interpreter + isinstance(error, RuntimeError)
        except Exception as error:
            raise Failed(f"file {number} stumbles: {type(error).__name__} {error}") from error
    seen = f"a line for each; {interpreter} come from the interpreter's process"
    return Outcome(f"{_INPUTS - refused} of {_INPUTS} exported, {refused} refused", "nothing", seen, HELD)


def aborts(folder: Path) -> Outcome:
    """A sound file over which TensorFlow Lite Micro ends its process."""
    file = folder / "aborts.tflite"
    file.write_bytes(_softmax_of_equals())
    said = _said(_export(folder, file))
    if "ended with SIGABRT" not in said:
        raise Failed(f"the interpreter did not end, nothing is shown: {said or 'exported'}")
    if (folder / "aborts_microcontroller").exists():
        raise Failed("a part of what it gives is there")
    return Outcome("refused, exit code 2", "nothing", said.rpartition("tflite: ")[2], HELD)


def giant(folder: Path) -> Outcome:
    """A file of a kilobyte that declares maps of a gigabyte."""
    file = folder / "giant.tflite"
    file.write_bytes(_giant())
    said = _said(_export(folder, file, before=(sys.executable, "-c", _MEASURED, "most")))
    most = int((folder / "most").read_text()) / 1024
    if "at most" not in said or most > _MOST_MIB:
        raise Failed(f"{most:.0f} MiB of memory, and: {said or 'exported'}")
    return Outcome("refused, exit code 2", f"nothing: {most:.0f} MiB at the most", said.rpartition("tflite: ")[2], HELD)


def names(folder: Path) -> Outcome:
    """A file whose name is Markdown, HTML and C."""
    name = "<script>a|b`](x) #_c_ \"'\nd"
    file = folder / f"{name}.tflite"
    file.write_bytes(tflite.by_hand())
    if said := _said(_export(folder, file, "--out", str(folder / "out"))):
        raise Failed(said)
    head = (folder / "out" / "model_card.md").read_text().partition("\n")[0]
    plain = head.replace("\\", "").removeprefix("# ")
    if plain != " ".join(name.split()) or any(f"\\{sign}" not in head for sign in "<>|`]#_"):
        raise Failed(f"the card begins {head!r}")
    sources = "".join((folder / "out" / each).read_text() for each in ("model.c", "model.h", "model_data.c"))
    if "script" in sources:
        raise Failed("the name is in the C sources")
    return Outcome("exported", "nothing", f"the card begins: {head}", HELD)


def links(folder: Path) -> Outcome:
    """Links to another file, planted where the export writes."""
    outside, out = folder / "outside", folder / "out"
    outside.write_text("kept")
    out.mkdir()
    planted = ("model.c", "model.h", "model.tflite", "model_card.json", "main.c", "Makefile")
    for name in planted:
        (out / name).symlink_to(outside)
    file = folder / "theirs.tflite"
    file.write_bytes(tflite.by_hand())
    if said := _said(_export(folder, file, "--out", str(out))):
        raise Failed(said)
    if outside.read_text() != "kept" or any(path.is_symlink() for path in out.iterdir()):
        raise Failed("a link was followed, or is still there")
    return Outcome("exported", "nothing: the other file is as it was", f"{len(planted)} links were replaced", HELD)


def _export(folder: Path, file: Path, *words: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), ACTOR: f"{folder}/export", "COLUMNS": "200"}
    command = [*before, *CLI, "export", str(file), "--to", "microcontroller", *words]
    try:
        return subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{file.name!r}: not over after {_LIMIT_S:.0f} s") from None


def _said(ended: subprocess.CompletedProcess[str]) -> str:
    """The line that refused a file; "" where it was exported. Failed for anything else."""
    lines = ended.stderr.strip().splitlines()
    if ended.returncode == 0 and not lines:
        return ""
    if ended.returncode != 2 or len(lines) != 1:
        raise Failed(f"ends with {ended.returncode} and {len(lines)} lines: {lines[-1] if lines else ''}"[:300])
    return lines[0]


def _changed(number: int) -> bytes:
    """A seed with a few of its numbers changed, or cut short; the same for the same number."""
    chance, seeds = random.Random(number), tflite.seeds()
    content = bytearray(seeds[number % len(seeds)])
    if number % 10 == 9:
        return bytes(content[: chance.randrange(8, len(content))])
    for _ in range(chance.randint(1, 3)):
        if number % 2:
            content[chance.randrange(8, len(content))] ^= 1 << chance.randrange(8)
        else:
            place = 4 * chance.randrange(2, len(content) // 4)
            content[place : place + 4] = struct.pack("<I", chance.choice((0, 1, 2, 255, 2**31 - 1, 2**32 - 1)))
    return bytes(content)


def _softmax_of_equals() -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack

    int8, one = np.dtype(np.int8), np.ones(1, np.float32)
    tensors = [
        FileTensor((1, 4), int8, None, one),
        FileTensor((512, 4), int8, np.zeros((512, 4), np.int8), one),
        FileTensor((1, 512), int8, None, one / 5),
        FileTensor((1, 512), int8, None, one / 256, -128),
    ]
    kinds, code = schema.BuiltinOptions, schema.BuiltinOperator
    operators = [
        FileOperator(
            code.FULLY_CONNECTED, 4, (0, 1, -1), 2, schema.FullyConnectedOptionsT(), kinds.FullyConnectedOptions
        ),
        FileOperator(code.SOFTMAX, 2, (2,), 3, schema.SoftmaxOptionsT(beta=1.0), kinds.SoftmaxOptions),
    ]
    return pack(File(tensors, operators, (0,), (3,)))


def _giant() -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack

    map_ = FileTensor((1, 32767, 32767, 1), np.dtype(np.int8), None, np.ones(1, np.float32))
    return pack(File([map_, map_], [FileOperator(schema.BuiltinOperator.RELU, 2, (0,), 1, None, 0)], (0,), (1,)))


HAZARDS: dict[str, Hazard] = {
    "foreign_damaged": Hazard("60 damaged .tflite files, each exported by a command", damaged, 1200.0, damaged_quick),
    "foreign_aborts": Hazard("A .tflite that ends TensorFlow Lite Micro", aborts, 120.0, aborts),
    "foreign_giant": Hazard("A small .tflite that declares maps of a gigabyte", giant, 120.0, giant),
    "foreign_names": Hazard("A .tflite whose name is Markdown, HTML and C", names, 120.0, names),
    "foreign_links": Hazard("Links planted in an export's folder", links, 120.0, links),
}
