"""A torch model that drops nothing for a while, so that two trainers can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CHANNELS = {
    "dropout": False,
    "dropout_": False,
    **dict.fromkeys(("dropout1d", "dropout2d", "dropout3d", "feature_dropout", "feature_dropout_"), True),
}
"""Names of torch's functions -> whether they drop whole channels."""


@contextmanager
def undropped() -> Iterator[list[tuple[float, bool]]]:
    """For a block, let dropout leave its input as it is; what it was asked for, call by call: (chance, whole channels).

    What is at rest, or has no chance, is not told.
    """
    from torch.overrides import TorchFunctionMode

    asked: list[tuple[float, bool]] = []

    class Undropped(TorchFunctionMode):
        def __torch_function__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            channels = _CHANNELS.get(getattr(called, "__name__", ""))
            if channels is None:
                return called(*args, **kwargs)
            given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            chance, drops = float(given.get("p", 0.5)), given.get("training", given.get("train", True))
            if drops and chance:
                asked.append((chance, channels))
            return given["input"]

    with Undropped():
        yield asked
