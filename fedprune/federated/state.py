"""What the server knows between phases, and its checkpoint: one file, written whole or not at all."""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedprune import masks as _masks
from fedprune import wire
from fedprune.types import Masks, Params, Tensor


@dataclass(frozen=True)
class State:
    """The global model and how far the run is. Nothing else decides what comes next: draws are by seed and round."""

    round: int
    """Rounds that are complete; −1 before a candidate is chosen."""
    params: Params
    """Every parameter and buffer; pruned positions are 0."""
    masks: Masks = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """What one phase leaves for a later one, by name."""

    def density(self) -> float:
        """Kept fraction of the prunable weights; 1.0 for a dense model."""
        return _masks.density(self.masks)


_PARTS = ("params", "masks", "memory")


def save(state: State, path: Path) -> None:
    """Write a state; a reader sees the old file or the new one, whatever happens in between."""
    flat = {f"{part}/{name}": value for part in _PARTS for name, value in getattr(state, part).items()}
    data = wire.encode({"round": np.asarray(state.round, np.int64), **flat})
    write_atomically(path, data + zlib.crc32(data).to_bytes(4, "little"))


def read(path: Path) -> State:
    """The state of ``save``; bit for bit. ValueError where the file is damaged."""
    content = path.read_bytes()
    data, checksum = content[:-4], content[-4:]
    if zlib.crc32(data).to_bytes(4, "little") != checksum:
        raise ValueError("its checksum does not fit")
    tensors = wire.decode(data)
    if "round" not in tensors or tensors["round"].shape != ():
        raise ValueError("it says no round")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for key, value in tensors.items():
        part, slash, name = key.partition("/")
        if slash:
            if part not in parts:
                raise ValueError(f"it holds an unknown part {part[:40]!r}")
            parts[part][name] = value
    return State(int(tensors["round"]), parts["params"], parts["masks"], parts["memory"])


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file by ``data`` in one step, on disk before the name points to it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
