"""A .tflite that somebody else made, for microcontrollers."""

from pathlib import Path
from typing import Any, NamedTuple

from fedprune.export.c99 import Optimise, generate, smallest
from fedprune.export.c99.checks import check_types
from fedprune.export.c99.program import WHOLE
from fedprune.export.chip.brought import brought, helpers
from fedprune.export.chip.compacting import compacted
from fedprune.export.chip.comparing import compared
from fedprune.export.chip.write import Written, c_files, write_files
from fedprune.export.litert import ports
from fedprune.export.litert.flatbuffer import pack
from fedprune.export.litert.reader import ModelError, read
from fedprune.export.tflm.interpreter import arena_bytes
from fedprune.export.tflm.sources import initialisers
from fedprune.export.tflm.sparse import pack_sparse
from fedprune.export.tflm.unpack import unpacked


def write(model: bytes, folder: Path, name: str, *, optimise: Optimise = smallest, data: Path | None = None) -> Written:
    """Write the `files` of any int8 .tflite, compared; raises as they do, and then nothing is written."""
    return write_files(files(model, name, optimise=optimise, compare=True, data=data), folder)


def files(
    model: bytes, name: str, *, optimise: Optimise = smallest, compare: bool = False, data: Path | None = None
) -> dict[str, bytes]:
    """Return what `c_files` does for any .tflite of int8, or of tokens and int8; classes are called by their numbers.

    There is no C array of a file with an operator that TensorFlow Lite Micro has no kernel of, or none for its options.
    The C is for what `brought` makes of the file, with ``data`` of one of floats; with ``compare`` it is built and run
    here, see `compared`, and the card says so.

    Raises ``ModelError`` for a file that is not sound or that no C kernels cover, and as `c_files` and `compared`.
    """
    found = brought(model, data)
    plain = pack(found.file)
    classes = (ports(found.file).output.shape or (1,))[-1]
    if classes > WHOLE:
        raise ModelError(f"the model has {classes} outputs; at most {WHOLE} will do")
    labels = [str(number) for number in range(classes)]
    card: dict[str, Any] = {"name": name, "labels": labels, "mean": [0.0], "std": [1.0]}
    listed = initialisers(labels) if ports(found.file).input.vocabulary else initialisers(labels, [0.0], [1.0])
    made = generate(plain, optimise, listed + helpers(found))
    packed = pack_sparse(found.file)
    arena = _arena(packed)
    if compare and (seen := compared(made, pack(found.whole))):
        card["compared"] = seen
    if found.said:
        card["changed"] = [*found.said]
    model = plain if arena is None else packed  # what only it can unpack helps nobody else
    return c_files(model, {**card, "arena_bytes": arena}, made=made)


class Lite(NamedTuple):
    """An int8 .tflite, and what was changed of the file that it was made of."""

    content: bytes
    said: tuple[str, ...]


def lite(model: bytes, data: Path | None = None) -> Lite:
    """Return an int8 .tflite as small as it gets, of floats by the examples in ``data``: for phones and the Pi.

    Its ends stay what they are. Raises as `brought`.
    """
    found = brought(model, data)
    check_types(found.file)
    if data is not None:
        return Lite(pack(found.file), found.said)
    made = compacted(unpacked(read(model)))
    said = (f"{made.removed} channels that no input moves, or that nobody reads, are removed: the same bits",)
    return Lite(pack(unpacked(made.file)), said if made.removed else ("there was nothing to remove",))


_LACKING = ("Failed to get registration from op code", "failed to prepare")


def _arena(model: bytes) -> int | None:
    """The arena that TensorFlow Lite Micro takes, in bytes, None where it lacks an operator, or what one does here."""
    try:
        return arena_bytes(model)
    except RuntimeError as error:
        if any(said in str(error) for said in _LACKING):
            return None
        raise
