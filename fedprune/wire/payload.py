"""Content of a message, as the phases see it, and its values, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fedprune import wire
from fedprune.lazy import joined, picked
from fedprune.types import Masks, Params

_LARGEST, _LARGEST_FLOAT = 2.0**63, 1e300  # the loss of a model that has diverged is large; sums of it stay finite


_NONE: Masks = MappingProxyType({})
REFUSED, MEMORY, OF, SECONDS, UNUSED, DIVERGED = "refused", "memory_bytes", "of", "seconds", "unused", "diverged"
COMPILED, TRAINER = "compiled", "trainer"
TRAINERS = "native", "torch"
"""Values of a reply: what the job would have needed, where it did not fit; what the device's process may use; the
stamp of what it answers; how long a real device worked on it; how many of its own files, and of its examples with
unknown labels, it cannot use; and, in the place of an answer, that what it trained or tested has diverged."""


class Payload(NamedTuple):
    """Content of a message, as the phases see it."""

    values: Mapping[str, Any] = MappingProxyType({})
    """Numbers, texts, lists and tables of them."""
    tensors: Params = MappingProxyType({})
    """Named tensors; one named in ``masks`` travels as its kept values alone."""
    masks: Masks = MappingProxyType({})
    """Masks that the receiver does not have yet."""


def to_blobs(payload: Payload, known: Masks = _NONE) -> dict[str, bytes]:
    """A payload's masks and tensors as bytes. ``known`` are masks that the receiver holds: they shorten the tensors."""
    under = picked(joined(known, payload.masks), payload.tensors.__contains__)
    blobs = {
        "masks": wire.encode(payload.masks) if payload.masks else b"",
        "tensors": wire.encode(payload.tensors, under) if payload.tensors else b"",
    }
    return {name: data for name, data in blobs.items() if data}


def from_blobs(
    values: Mapping[str, Any], blobs: Mapping[str, bytes], known: Masks = _NONE, max_bytes: int = 2**31,
    *, lazily: bool = False,
) -> Payload:  # fmt: skip
    """The payload of ``to_blobs``, with these values; ``lazily``, each tensor is made when it is asked for.

    WireError where anything of it is damaged or, before allocating, where its tensors or its masks would take more
    than ``max_bytes``.
    """
    read = wire.opened if lazily else wire.decode
    masks = read(blobs["masks"], max_bytes=max_bytes) if "masks" in blobs else {}
    tensors = read(blobs["tensors"], joined(known, masks), max_bytes) if "tensors" in blobs else {}
    return Payload(values, tensors, masks)


def number(payload: Payload, key: str, *, least: float = -math.inf) -> float:
    """A finite number among the values; ValueError where it is missing, no number, or below ``least``."""
    value = payload.values.get(key)
    # NaN is in no range, and JSON has whole numbers that no float holds
    largest = _LARGEST if isinstance(value, int) else _LARGEST_FLOAT
    if isinstance(value, int | float) and not isinstance(value, bool) and max(least, -largest) <= value <= largest:
        return value
    wanted = "a finite number" + (f" ≥ {least:g}" if least > -math.inf else "")
    raise ValueError(f"{key} is {repr(value)[:40]}, expected {wanted}")


def count(payload: Payload, key: str, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """A whole number among the values; ValueError where it is missing, is none, or is outside [``least``, ``most``]."""
    value = payload.values.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    wanted = f"{least} or more" if most == 2**63 - 1 else f"{least} to {most}"
    raise ValueError(f"{key} is {repr(value)[:40]}, expected a whole number, {wanted}")


def one_line(reason: str | None) -> str:
    """The last line of an error, which names it, as printable characters."""
    lines = [line for line in (reason or "").strip().splitlines() if line.strip()]
    text = lines[-1].strip()[:300] if lines else "an error without a reason"
    return "".join(letter if letter.isprintable() else "?" for letter in text)
