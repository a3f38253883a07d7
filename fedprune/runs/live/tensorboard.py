"""A run's picture as event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedprune.tasks import ACCURACY

_COUNTS = ("faults", "late", "refused", "retried", "aside", "absent")
_OURS = ".fedprune"  # how the names of files written here end, so that nobody else's are removed


def write_events(picture: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a ``picture`` into a folder, in place of what was written before; returns the paths.

    Scalars by round; layers' densities as they are now. ModuleNotFoundError without torch and tensorboard.
    """
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob(f"events.out.tfevents.*{_OURS}"):
        old.unlink()
    with SummaryWriter(str(folder), filename_suffix=_OURS) as writer:
        for tag, value, round in _scalars(picture):
            if value is not None:
                writer.add_scalar(tag, value, round, walltime=picture["written_s"])
    return sorted(folder.glob(f"events.out.tfevents.*{_OURS}"))


def _scalars(picture: Mapping[str, Any]) -> Iterator[tuple[str, float | None, int]]:
    name = picture["metric"]["name"]
    judged = (name, "accuracy" if name == ACCURACY.name else "value")
    for line in picture["rounds"]:
        for tag, key in (judged, ("loss", "loss")):
            if line["train"]:
                yield f"train/{tag}", line["train"][key], line["round"]
            for part, test in line["test"].items():
                yield f"test/{tag}{part and '/' + part}", test[key], line["round"]
        for key in ("density", "bytes_up", "bytes_down", "seconds", "device_seconds", *_COUNTS):
            yield f"round/{key}", line[key], line["round"]
    for part, densities in picture["layers"].items():
        for layer, value in densities.items():
            yield f"density/{part and part + '/'}{layer}", value, picture["round"]
