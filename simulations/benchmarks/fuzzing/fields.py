"""A .tflite of which single fields are changed: it stays a file that readers take, and holds what none should."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from simulations.benchmarks.fuzzing.mutate import mutated

_EDGES = (-(2**31), -129, -128, -2, -1, 0, 1, 2, 3, 4, 5, 127, 128, 255, 256, 2**15 - 1, 2**15, 2**16, 2**24, 2**31 - 1)
_REALS = (0.0, -1.0, 1e-38, 1e-9, 0.003, 1.0, 2.0, 1e9, 3e38, float("inf"), float("nan"))
_DESCRIBES = ("buffers", "metadata", "description", "version")


def spoilt(seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One of the seeds with one to three fields changed; one time in four its bytes, as `mutated` does."""
    from ai_edge_litert import schema_py_generated as schema

    if rng.random() < 0.25:
        return mutated(seeds, rng)
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(seeds[int(rng.integers(len(seeds)))])
    for _ in range(int(rng.integers(1, 4))):
        _change(model, rng)
    builder: Any = flatbuffers.Builder(1024)
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    except (struct.error, TypeError, ValueError, OverflowError, AttributeError):  # what no file can say
        return mutated(seeds, rng)
    return bytes(builder.Output())


def _fields(made: Any, name: str = "") -> Iterator[tuple[Any, str]]:
    """(object, attribute) of all that is a number or a list of them, a name, or an object that may be missing."""
    for key, value in vars(made).items():
        if name == "ModelT" and key in _DESCRIBES:
            continue
        if value is not None and not key.endswith("Type"):
            yield made, key
        for each in value if isinstance(value, list) else [value]:
            if hasattr(each, "__dict__"):
                yield from _fields(each, type(each).__name__)


def _change(model: Any, rng: np.random.Generator) -> None:
    found = [*_fields(model, "ModelT")]
    buffers = [(buffer, "data") for buffer in model.buffers if buffer.data is not None]
    found += buffers[: max(1, len(found) // 8)]
    made, key = found[int(rng.integers(len(found)))]
    setattr(made, key, _other(getattr(made, key), rng))


def _other(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, bool | np.bool_):
        return not value
    if isinstance(value, int | np.integer):
        small = int(value) + int(rng.integers(-2, 3))
        return small if rng.random() < 0.5 else _EDGES[int(rng.integers(len(_EDGES)))]
    if isinstance(value, float | np.floating):
        return _REALS[int(rng.integers(len(_REALS)))]
    if isinstance(value, bytes | str):
        return b"" if rng.random() < 0.5 else b"other"
    if isinstance(value, list | np.ndarray) and len(value):
        return _another_list(value, rng)
    return None


def _another_list(value: Any, rng: np.random.Generator) -> Any:
    items, at = list(value), int(rng.integers(len(value)))
    way = int(rng.integers(5))
    if way == 0:
        del items[at]
    elif way == 1:
        items.insert(at, items[int(rng.integers(len(items)))])
    elif way == 2:
        other = int(rng.integers(len(items)))
        items[at], items[other] = items[other], items[at]
    elif hasattr(items[at], "__dict__"):
        items[at] = items[int(rng.integers(len(items)))]
    else:
        items[at] = _other(items[at], rng)
    if not isinstance(value, np.ndarray):
        return items
    with np.errstate(all="ignore"):
        return np.array(items, np.float64 if value.dtype.kind == "f" else np.int64).astype(value.dtype)
