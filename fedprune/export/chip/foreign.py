"""An int8 .tflite that somebody else made, for microcontrollers."""

from pathlib import Path

from fedprune.export.c99 import Optimise, generate, smallest
from fedprune.export.c99.program import WHOLE
from fedprune.export.chip.write import Written, c_files, write_files
from fedprune.export.litert import ports
from fedprune.export.litert.flatbuffer import pack
from fedprune.export.litert.reader import ModelError, read
from fedprune.export.tflm.interpreter import arena_bytes
from fedprune.export.tflm.sparse import pack_sparse
from fedprune.export.tflm.unpack import unpacked


def write(model: bytes, folder: Path, name: str, *, optimise: Optimise = smallest) -> Written:
    """Write the `files` of any int8 .tflite; raises as they do, and then nothing is written."""
    return write_files(files(model, name, optimise=optimise), folder)


def files(model: bytes, name: str, *, optimise: Optimise = smallest) -> dict[str, bytes]:
    """Return what `c_files` does for any .tflite of int8, or of tokens and int8; classes are called by their numbers.

    There is no C array of a file with an operator that TensorFlow Lite Micro has no kernel of.

    Raises ``ModelError`` for a file that is not sound or that no C kernels cover, and as `c_files`.
    """
    file = unpacked(read(model))
    plain = pack(file)
    classes = (ports(file).output.shape or (1,))[-1]
    if classes > WHOLE:
        raise ModelError(f"the model has {classes} outputs; at most {WHOLE} will do")
    card = {"name": name, "labels": [str(number) for number in range(classes)], "mean": [0.0], "std": [1.0]}
    packed = pack_sparse(file)
    try:
        arena = _arena(packed)
    except RuntimeError:
        generate(plain, optimise)  # where the file is at fault, the library says of what in it
        raise
    model = plain if arena is None else packed  # what only it can unpack helps nobody else
    return c_files(model, {**card, "arena_bytes": arena}, plain=plain, optimise=optimise)


_LACKING = "Failed to get registration from op code"


def _arena(model: bytes) -> int | None:
    """The arena that TensorFlow Lite Micro takes, in bytes, None where it lacks an operator."""
    try:
        return arena_bytes(model)
    except RuntimeError as error:
        if _LACKING in str(error):
            return None
        raise
