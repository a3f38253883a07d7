"""What a device's own folder holds: examples, whose recordings they are of, and what of it cannot be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedprune.data.examples import Array
from fedprune.experiment.errors import one_line


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a folder holds, as far as it can be used; examples in the order of their files' names."""

    inputs: Array
    """(n, C, ...): uint8 of pictures and of .npz files of uint8, else float32; may be a read-only memory map."""
    labels: tuple[str, ...]
    """(n,) names as they were found."""
    recordings: tuple[str, ...]
    """(n,) the recording that each example is of."""
    problems: tuple[str, ...] = ()
    """A line for each file, or piece of one, that cannot be used: its path in the folder, why, what would be right."""
    features: tuple[str, ...] = ()
    """Names of the channels where they have names, which are a table's signals."""
    targets: Array | None = None
    """(n, targets) float32, the numbers to predict; None where labels are to be told. Labels then name the first."""
    fresh: bool = True
    """Whether the files were read just now; else what was kept of them."""

    def __len__(self) -> int:
        return len(self.labels)


class Piece(NamedTuple):
    """What one file gives."""

    inputs: Array
    """(n, C, ...)"""
    labels: Sequence[str]
    recordings: Sequence[str]
    problems: Sequence[str] = ()
    """What of the file is left out, without its name."""
    targets: Array | None = None
    """(n, targets) float32, where numbers are to be predicted."""


class Unusable(ValueError):
    """A file that nothing can be taken of; the message says why, without the file's name."""


def line(name: str, reason: object) -> str:
    """``name: reason`` in printable characters and within one line."""
    return one_line(f"{name}: {' '.join(str(reason).split()) or type(reason).__name__}")
