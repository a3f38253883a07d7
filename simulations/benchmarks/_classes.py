"""Instructions of an inference on an emulated chip by class, and what a published timing model makes of them."""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from fedprune.export import c99
from fedprune.export.c99 import boards
from fedprune.export.chip.benching import noise

_PLUGIN = Path(__file__).with_name("_classes.c")
_VERSIONS = (1, 2, 3, 4)
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


def classes(model: bytes, target: str) -> Classes:
    """Return what one inference of noise takes; raises ``RuntimeError`` where the emulator takes no plugins."""
    made = c99.generate(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boards.copy_firmware(folder)
        (folder / "model.c").write_text(made.source, encoding="utf-8")
        (folder / "model.h").write_text(made.header, encoding="utf-8")
        (folder / "inputs.bin").write_bytes(noise(model).tobytes())
        make = ("make", "-s", f"TARGET={target}")
        subprocess.run((*make, "all"), cwd=folder, check=True, capture_output=True)
        counts = _counted(folder, make)
        program = next(folder.glob("build/*/program"))
        text = subprocess.run(("arm-none-eabi-objdump", "-d", "--no-show-raw-insn", program), capture_output=True)
    return _sorted(text.stdout.decode(), counts)


def _counted(folder: Path, make: tuple[str, ...]) -> dict[int, int]:
    said = subprocess.run((*make, "-n", "run"), cwd=folder, check=True, capture_output=True, text=True).stdout
    command = said.strip().splitlines()[-1].partition("<")[0].split()
    found = folder / "counts"
    for version in _VERSIONS:
        plugin = folder / f"count{version}.so"
        build = ("cc", "-shared", "-fPIC", "-O2", f"-DVERSION={version}", str(_PLUGIN), "-o", str(plugin))
        subprocess.run(build, check=True)
        ran = subprocess.run(
            [command[0], "-plugin", f"{plugin},counts={found}", *command[1:]],
            cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if ran.returncode == 0 and found.exists():
            lines = (line.split() for line in found.read_text().splitlines())
            return {int(place, 16): int(count) for place, count in lines}
    raise RuntimeError(f"{shutil.which(command[0])} takes no plugins")


def _sorted(text: str, counts: dict[int, int]) -> Classes:
    found: Counter[str] = Counter()
    function = ""
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.+)>:", line):
            function = head[1]
        elif (part := re.match(r"\s+([0-9a-f]+):\t(\S+)\s*(.*)", line)) and not re.match(_OTHERS, function):
            count, name, operands = counts.get(int(part[1], 16), 0), part[2], part[3]
            kind = _kind(name, operands)
            found[kind] += count
            found["cycles"] += count * _cycles(kind, name, operands)
    return Classes(*(found[each] for each in Classes._fields))


def _kind(name: str, operands: str) -> str:
    if re.match(r"(ldr|ldm|pop)", name):
        return "loads"
    if re.match(r"(str|stm|push)", name):
        return "stores"
    if re.match(r"(mul|mla|mls|smu|sml|smm|umu|uml)", name):
        return "multiplies"
    return "branches" if re.match(r"(b(?!ic|fi|fc|kpt)|cbn?z|tb[bh])", name) else "others"


def _cycles(kind: str, name: str, operands: str) -> int:
    """Cycles of an instruction by the Cortex-M4's reference manual, in memory without wait states.

    Loads and stores of n registers take 1 + n, and those next to each other are counted as if they did not overlap, as
    they do; a branch takes 3, as if each were taken. Real programs take less.
    """
    if kind == "branches":
        return 3
    if kind not in ("loads", "stores"):
        return 1
    if re.match(r"(ldm|stm|push|pop)", name):
        registers = re.search(r"{(.*)}", operands)
        return 2 + (registers[1].count(",") if registers else 0)
    if re.match(r"(ldrd|strd)", name):
        return 3
    return 2 if kind == "loads" else 1
