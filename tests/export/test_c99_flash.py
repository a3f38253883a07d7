"""What the C99 sources say of their flash, against what a compiler makes of them."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c99_calculators import CALCULATORS
from c99_files import Draft
from c99_nets import MOVERS, chain
from c99_runs import written
from recurrent_nets import NETS as RECURRENT
from recurrent_nets import int8

from fedprune.export import c99, litert
from fedprune.export.c99 import boards, flash
from fedprune.export.c99.encoding import ENCODINGS, PATTERNS, Encoding, encode
from fedprune.export.c99.files import folder
from fedprune.export.litert.reader import read

COMPILERS = {
    "gcc": ["gcc", "-m32", "-fno-pic"],  # compiling for 32 bits needs no library of them
    "arm-none-eabi-gcc": ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb"],
}


def constants(sources: c99.Sources, compiler: str, path: Path) -> int:
    """Return the bytes of all constants in the object file that a compiler makes."""
    command = [*COMPILERS[compiler], "-std=c99", "-ffreestanding", "-c", "model.c", "-o", "model.o"]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    built = subprocess.run(command, cwd=written(sources, path), capture_output=True, text=True)
    if "-m32" in built.stderr:
        pytest.skip(f"{compiler} does not compile for 32 bits here")
    assert built.returncode == 0, built.stderr
    listed = subprocess.run([compiler.replace("gcc", "") + "nm", "-S", "model.o"], cwd=path, capture_output=True)
    sizes = re.findall(rb"^\w+ (\w+) r ", listed.stdout, re.MULTILINE)
    return sum(int(size, 16) for size in sizes)


def large_biases() -> bytes:
    draft = Draft((1, 6, 6, 3))
    return draft.file(draft.conv(draft.input, 5, bias=np.full(5, 2**24)))


def linear_alone() -> bytes:
    draft = Draft((1, 40))
    return draft.file(draft.linear(draft.linear(draft.input, 30), 10))


def tokens() -> bytes:
    draft = Draft((1, 6))
    return draft.file(draft.linear(draft.tokens(6, 50, 8), 10))


NETS = {
    **{f"chain {seed}": (lambda seed=seed: chain(seed)) for seed in range(12)},
    **{f"arithmetic {seed}": (lambda seed=seed: chain(seed, kinds=CALCULATORS)) for seed in range(6)},
    "large biases": large_biases,
    "linear alone": linear_alone,
    **{f"moves {seed}": (lambda seed=seed: chain(seed, kinds=MOVERS)) for seed in range(6)},
    "tokens": tokens,
    **{kind.__name__: (lambda kind=kind: int8(kind, 0.4)) for kind in RECURRENT},
}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("net", NETS)
def test_constants_are_counted_to_the_byte(net: str, compiler: str, tmp_path: Path) -> None:
    for optimise in (c99.smallest, c99.fastest):
        sources = c99.generate(NETS[net](), optimise)
        assert sources.constants_bytes == constants(sources, compiler, tmp_path)


@pytest.mark.parametrize("net", NETS)
def test_all_flash_is_foretold_within_a_tenth_of_its_code(net: str, tmp_path: Path) -> None:
    if lacking := boards.missing("cortex-m4"):
        pytest.skip(lacking)
    model = NETS[net]()
    sources = c99.generate(model)
    inputs = litert.noise(litert.ports(read(model)).input).reshape(1, -1)
    measured = boards.run(written(sources, tmp_path), "cortex-m4", inputs).flash_bytes
    assert measured is not None
    code = measured - sources.constants_bytes
    assert sources.code_bytes_predicted == pytest.approx(code, rel=0.1, abs=100)
    assert sources.flash_bytes_predicted == sources.constants_bytes + sources.code_bytes_predicted


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: each.name)
def test_each_decoder_is_foretold(encoding: Encoding, tmp_path: Path) -> None:
    if lacking := boards.missing("cortex-m4"):
        pytest.skip(lacking)
    draft = Draft((1, 6, 6, 3))
    none = 0 if encoding.kept else 0.5  # weights that are of any pattern
    model = draft.file(draft.linear(draft.conv(draft.input, 8, density=none), 20, none))
    sources = c99.generate(model, lambda layers, kernels: [encode(filters, encoding) for filters in layers])
    measured = boards.run(written(sources, tmp_path), "cortex-m4", np.zeros((1, 108), np.int8)).flash_bytes
    assert measured is not None
    assert sources.code_bytes_predicted == pytest.approx(measured - sources.constants_bytes, rel=0.05)


def test_zeros_take_no_flash() -> None:
    sizes = []
    for density in (1.0, 0.5, 0.1):
        draft = Draft((1, 8, 8, 16))
        sizes.append(c99.generate(draft.file(draft.conv(draft.input, 32, density=density))).constants_bytes)
    dense, half, tenth = sizes
    assert 16 * 32 * 9 < dense < 16 * 32 * 9 + 1000
    assert tenth < 0.4 * dense < half < 0.8 * dense


def test_every_kernel_has_its_size() -> None:
    files = {path.stem for path in folder("kernels").iterdir()} - {"tile_places", "linear_places"}
    files |= {f"{kernel}_{each.name}" for kernel in ("tile", "linear") for each in PATTERNS}
    wide = {name.replace("linear", "wide") for name in files if name.startswith("linear_")}  # the same text, on int16
    assert {*flash._CODE} == files | wide
    text = "".join(path.read_text("utf-8") for path in folder("kernels").iterdir())
    assert {*flash._STRUCTS} == {*re.findall(r"^struct (\w+) \{", text, re.MULTILINE)} - {"cursor", "pair"}
