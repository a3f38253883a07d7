"""Instructions of an inference on an emulated chip by class, and what a published timing model makes of them."""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fedprune.export import c99
from fedprune.export.c99 import boards
from fedprune.export.chip.benching import noise
from fedprune.export.chip.brought import brought
from fedprune.export.litert.flatbuffer import pack
from simulations.benchmarks._plugins import counting

_OTHERS = "main|reset|fault|machine_|ask|print|leave|fail|open_file|move|nothing"
"""Functions that a program has besides the model's."""


class Classes(NamedTuple):
    """Instructions of one inference. ``cycles`` are not measured: see `_cycles`."""

    loads: int
    stores: int
    multiplies: int
    branches: int
    others: int
    cycles: int


class Ran(NamedTuple):
    """How often an instruction ran, and how often another than the one behind it came next."""

    count: int
    jumps: int


def classes(model: bytes, target: str) -> Classes:
    """Return what one inference of noise takes; raises ``RuntimeError`` where the emulator takes no plugins."""
    plain = pack(brought(model).file)
    made = c99.generate(plain)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boards.copy_firmware(folder)
        (folder / "model.c").write_text(made.source, encoding="utf-8")
        (folder / "model.h").write_text(made.header, encoding="utf-8")
        (folder / "inputs.bin").write_bytes(noise(plain).tobytes())
        make = ("make", "-s", f"TARGET={target}")
        subprocess.run((*make, "all"), cwd=folder, check=True, capture_output=True)
        counts = _counted(folder, make)
        program = next(folder.glob("build/*/program"))
        text = subprocess.run(("arm-none-eabi-objdump", "-d", "--no-show-raw-insn", program), capture_output=True)
    return sorted_by_class(text.stdout.decode(), counts)


def _counted(folder: Path, make: tuple[str, ...]) -> dict[int, Ran]:
    said = subprocess.run((*make, "-n", "run"), cwd=folder, check=True, capture_output=True, text=True).stdout
    command = said.strip().splitlines()[-1].partition("<")[0].split()
    found = folder / "counts"
    for options in counting("_classes.c", folder, found):
        ran = subprocess.run(
            [command[0], *options, *command[1:]],
            cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if ran.returncode == 0 and found.exists():
            lines = (line.split() for line in found.read_text().splitlines())
            return {int(place, 16): Ran(int(count), int(jumps)) for place, count, jumps in lines}
    raise RuntimeError(f"{shutil.which(command[0])} takes no plugins")


def sorted_by_class(text: str, counts: Mapping[int, Ran]) -> Classes:
    """Return the classes of what ran of a disassembled program."""
    found: Counter[str] = Counter()
    function = before = ""
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.+)>:", line):
            function, before = head[1], ""
        elif (part := re.match(r"\s+([0-9a-f]+):\t(\S+)\s*(.*)", line)) and not re.match(_OTHERS, function):
            ran, name, operands = counts.get(int(part[1], 16), Ran(0, 0)), part[2], part[3]
            kind = _kind(name)
            found[kind] += ran.count
            found["cycles"] += ran.count * _cycles(kind, name, operands, before) + ran.jumps * _REFILL
            before = f"{name} {operands}"
    return Classes(*(found[each] for each in Classes._fields))


def _kind(name: str) -> str:
    if re.match(r"(ldr|ldm|pop)", name):
        return "loads"
    if re.match(r"(str|stm|push)", name):
        return "stores"
    if re.match(r"(mul|mla|mls|smu|sml|smm|umu|uml)", name):
        return "multiplies"
    return "branches" if re.match(r"(b(?!ic|fi|fc|kpt)|cbn?z|tb[bh])", name) else "others"


_REFILL = 2
"""Cycles that the pipeline takes to fill anew after a jump: 1 to 3, by the manual."""
_ALONE = r"(ldr|str)(?!e?x|d)[a-z.]* "


def _cycles(kind: str, name: str, operands: str, before: str) -> int:
    """Cycles of an instruction by the Cortex-M4's reference manual, in memory without wait states, jumps left out.

    Loads and stores of n registers take 1 + n. A load of one takes 2, or 1 right behind another load or store of one,
    unless that loads its address; a store of one takes 1, for it is buffered.
    """
    if kind not in ("loads", "stores"):
        return 1
    if re.match(r"(ldm|stm|push|pop)", name):
        registers = re.search(r"{(.*)}", operands)
        return 2 + (registers[1].count(",") if registers else 0)
    if re.match(r"(ldrd|strd)", name):
        return 3
    if kind == "stores":
        return 1
    target = before.split(" ", 1)[-1].partition(",")[0]
    waits = before.startswith("ldr") and target in re.split(r"\W+", operands.partition(",")[2])
    return 1 if re.match(_ALONE, before) and not waits else 2
