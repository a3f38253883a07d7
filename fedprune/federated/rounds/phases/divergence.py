"""What a device says in the place of an answer where what it trained, or tests, has diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedprune.training.divergence import Diverged, words
from fedprune.wire.payload import DIVERGED, Payload

_LONGEST = 200


def reply(error: Diverged) -> Payload:
    """The device's reply; numbers as texts, since some of them are none."""
    step = {} if error.step is None else {"step": error.step}
    said = {"loss": f"{error.loss:.3g}", "tensor": error.tensor, "largest": f"{error.largest:.3g}", **step}
    return Payload({DIVERGED: said})


def why(values: Mapping[str, Any]) -> str:
    """In words what ``reply`` says, read from a payload's values; empty where nothing has diverged. ValueError."""
    if DIVERGED not in values:
        return ""
    said = values[DIVERGED]
    try:
        loss, largest = (float(str(said[key])[:20]) for key in ("loss", "largest"))
        tensor, step = said["tensor"], said.get("step")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"diverged is {said!r:.60}, expected a loss, a tensor and its largest value") from None
    counted = step is None or (isinstance(step, int) and 0 <= step < 2**53)
    if not (isinstance(tensor, str) and tensor.isprintable() and len(tensor) <= _LONGEST and counted):
        raise ValueError(f"diverged is {said!r:.60}, expected the name of a tensor, and a step")
    return words(loss, tensor, abs(largest) if not math.isnan(largest) else largest, step)
