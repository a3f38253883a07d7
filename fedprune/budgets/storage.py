"""Bytes that pruned weights take where they are stored, by encoding: theoretical sizes, headers left out."""

from collections.abc import Mapping
from math import ceil, log2


def stored_bytes(sizes: Mapping[str, int], kept: Mapping[str, int], bits: int = 8) -> dict[str, int]:
    """Encoding -> bytes of all tensors together, each of ``sizes[name]`` values of which ``kept[name]`` (or all) stay.

    A value takes ``bits``. Besides values, ``bitmap`` takes a bit a position, ``gaps4`` and ``gaps8`` so many bits a
    kept value for the pruned ones before it, the largest symbol saying only that the gap goes on: the expected size,
    exact where what is kept is spread evenly at random. ``entropy`` is the bound of such a mask, n H(k / n) bits.
    ValueError where more is kept than there is.
    """
    totals = dict.fromkeys(("dense", "bitmap", "gaps4", "gaps8", "entropy"), 0)
    for name, size in sizes.items():
        left = kept.get(name, size)
        if not 0 <= left <= size:
            raise ValueError(f"{name}: {left} kept of {size} values")
        values = left * bits
        totals["dense"] += ceil(size * bits / 8)
        totals["bitmap"] += ceil((size + values) / 8)
        totals["gaps4"] += ceil((_gap_bits(size, left, 4) + values) / 8)
        totals["gaps8"] += ceil((_gap_bits(size, left, 8) + values) / 8)
        totals["entropy"] += ceil((_entropy_bits(size, left) + values) / 8)
    return totals


def smallest(sizes: Mapping[str, int], kept: Mapping[str, int], bits: int = 8) -> tuple[str, int]:
    """(encoding, bytes) of the smallest of `stored_bytes`; the entropy is a bound and no encoding."""
    found = stored_bytes(sizes, kept, bits)
    del found["entropy"]
    name = min(found, key=lambda encoding: found[encoding])
    return name, found[name]


def _gap_bits(size: int, left: int, width: int) -> float:
    # A gap is geometric, so it holds the escape q^m / (1 - q^m) times on average, m positions each.
    if left in (0, size):
        return left * width
    skipped: float = (1 - left / size) ** (2**width - 1)
    return left * width * (1 + skipped / (1 - skipped))


def _entropy_bits(size: int, left: int) -> float:
    if left in (0, size):
        return 0.0
    p = left / size
    return -size * (p * log2(p) + (1 - p) * log2(1 - p))
