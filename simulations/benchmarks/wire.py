"""Benchmark of the mask code: bytes against the entropy bound and speed, on ResNet-18's shapes, beside its peers."""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from fedprune.counter_rng import uniforms
from fedprune.types import BoolTensor
from fedprune.wire import decode_mask, encode_mask
from fedprune.wire.reading import Reader, varint
from simulations.benchmarks._report import Figure, write

try:
    import constriction
except ImportError:
    constriction = None

DENSITIES = (0.001, 0.01, 0.05, 0.1, 0.3, 0.38, 0.5)
SPEED_AT = 0.01
LARGEST_GAP = 4095
"""Of constriction's alphabet; a longer gap is this symbol, as often as needed, and the remainder."""


class Code(NamedTuple):
    """A way to send a flat mask."""

    encode: Callable[[BoolTensor], bytes]
    decode: Callable[[bytes, int], BoolTensor]
    """(message, positions) -> mask."""


class Measured(NamedTuple):
    size_bytes: int
    overhead: float
    """Bytes over the entropy bound."""
    encode: float
    """Million positions a second; so is ``decode``."""
    decode: float


def resnet18_sizes() -> Iterator[int]:
    """Weights of each convolution and of the classifier (32 × 32 inputs, 10 classes): 11.2 million."""
    yield 3 * 64 * 9
    yield from [64 * 64 * 9] * 4
    for width in (128, 256, 512):
        yield width // 2 * width * 9
        yield from [width * width * 9] * 3
        yield width // 2 * width
    yield 512 * 10


def entropy_bytes(mask: BoolTensor) -> float:
    """n · H(k / n) / 8."""
    p = np.count_nonzero(mask) / mask.size
    return 0.0 if p in (0, 1) else -mask.size * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8


def at_places(places: np.ndarray, size: int) -> BoolTensor:
    mask = np.zeros(size, dtype=np.bool_)
    mask[places] = True
    return mask


def constriction_encode(mask: BoolTensor) -> bytes:
    places = np.flatnonzero(mask)
    gaps = np.diff(places, prepend=-1) - 1
    over = gaps // LARGEST_GAP
    symbols = np.full(gaps.size + over.sum(), LARGEST_GAP, dtype=np.int32)
    symbols[np.cumsum(over + 1) - 1] = gaps - over * LARGEST_GAP
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols, _gap_model(places.size, mask.size))
    return varint(places.size) + varint(symbols.size) + coder.get_compressed().astype("<u4").tobytes()


def constriction_decode(data: bytes, size: int) -> BoolTensor:
    reader = Reader(data)
    kept, count = reader.varint(), reader.varint()
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(reader.rest(), "<u4").astype(np.uint32))
    symbols = coder.decode(_gap_model(kept, size), count).astype(np.int64)
    reach = np.cumsum(symbols + (symbols < LARGEST_GAP))
    return at_places(reach[symbols < LARGEST_GAP] - 1, size)


def _gap_model(kept: int, size: int) -> object:
    p = kept / size
    chances = p * (1 - p) ** np.arange(LARGEST_GAP + 1.0)
    chances[-1] = (1 - p) ** LARGEST_GAP
    return constriction.stream.model.Categorical(chances, perfect=False)


CODES = {
    "fedprune": Code(encode_mask, lambda data, size: decode_mask(data, (size,))),
    "int32 indices": Code(
        lambda mask: np.flatnonzero(mask).astype("<i4").tobytes(),
        lambda data, size: at_places(np.frombuffer(data, "<i4"), size),
    ),
    "bitmap": Code(
        lambda mask: np.packbits(mask).tobytes(),
        lambda data, size: np.unpackbits(np.frombuffer(data, np.uint8), count=size).view(np.bool_),
    ),
}
if constriction is not None:
    CODES["constriction"] = Code(constriction_encode, constriction_decode)


def measure(density: float, repeats: int) -> dict[str, Measured]:
    """Every code on the same random masks, layer by layer; the best time of ``repeats``, the codes taking turns."""
    masks = [uniforms(0, f"layer {i}", size) < density for i, size in enumerate(resnet18_sizes())]
    positions, bound = sum(mask.size for mask in masks), sum(map(entropy_bytes, masks))
    sizes, seconds = {}, dict.fromkeys(CODES, (math.inf, math.inf))
    for repeat in range(repeats):
        for name, code in CODES.items():
            start = time.perf_counter()
            messages = [code.encode(mask) for mask in masks]
            encoded = time.perf_counter()
            back = [code.decode(message, mask.size) for message, mask in zip(messages, masks, strict=True)]
            decoded = time.perf_counter()
            seconds[name] = (min(seconds[name][0], encoded - start), min(seconds[name][1], decoded - encoded))
            if repeat == 0:
                sizes[name] = sum(map(len, messages))
                if not all(map(np.array_equal, back, masks)):
                    raise AssertionError(f"{name} does not return the mask at density {density}")
    return {
        name: Measured(sizes[name], sizes[name] / bound, *(positions / 1e6 / each for each in seconds[name]))
        for name in CODES
    }


def table(results: dict[float, dict[str, Measured]]) -> Table:
    shown = Table(title="Masks of ResNet-18's shapes; speeds in million positions a second, one thread")
    for column in ("density", "code", "bytes", "over the entropy bound", "encode", "decode"):
        shown.add_column(column, justify="left" if column == "code" else "right")
    for density, codes in results.items():
        for name, got in codes.items():
            cells = (f"{got.size_bytes:,}", f"×{got.overhead:.4f}", f"{got.encode:,.0f}", f"{got.decode:,.0f}")
            shown.add_row(f"{density:g}", name, *cells, end_section=name == list(codes)[-1])
    return shown


def figures(results: dict[float, dict[str, Measured]]) -> dict[str, Figure]:
    """The worst overhead of any density, and the speeds at density 0.01."""
    worst = {name: max(codes[name].overhead for codes in results.values()) for name in CODES}
    made = {"worst_mask_overhead": Figure(worst.pop("fedprune"), "× entropy bound", "lower", 1.02, worst)}
    for way in ("encode", "decode"):
        speeds = {name: getattr(got, way) for name, got in results[SPEED_AT].items()}
        own = speeds.pop("fedprune")
        made[f"{way}_mpositions_per_s_at_{SPEED_AT}"] = Figure(own, "million positions/s", "higher", 500, speeds)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: within a minute")
    quick = parser.parse_args().quick
    console = Console()
    if constriction is None:
        console.print("constriction is not installed: measured without this peer")
    results = {}
    for density in DENSITIES:
        # The dearer half takes a second a repeat, and its speeds are no figures.
        results[density] = measure(density, repeats=(2 if quick else 5) * (5 if density <= SPEED_AT else 1))
    console.print(table(results))
    command = "python -m simulations.benchmarks.wire" + " --quick" * quick
    write("wire", figures(results), command, packages=["constriction"])
    console.print("written to results/wire.json")


if __name__ == "__main__":
    main()
