"""Examples that somebody made: .npz files of inputs and labels."""

import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedprune.data.examples import Array
from fedprune.data.own.folders import NO_LABEL, File, is_label, is_text
from fedprune.data.own.recorded import Piece, Unusable

SUFFIXES = frozenset((".npz",))
_MOST_NAMED = 5


def read(file: File, classes: Sequence[str]) -> Piece:
    """Return the examples of an .npz file: ``inputs`` (n, C, ...), ``labels`` (n,) and maybe ``recordings`` (n,).

    Inputs of uint8 stay so, all others become float32; examples that are not finite are left out. Labels are texts, or
    integers, which stand for themselves as text or, where no class is called so, for a position in ``classes``. Without
    ``recordings`` each example is one, called FILE#ROW. Unusable, or numpy's own errors, where the file is no such.
    """
    if not zipfile.is_zipfile(file.path):
        raise Unusable("no .npz file; expected one with the arrays inputs and labels, as numpy.savez writes it")
    try:
        with np.load(file.path, allow_pickle=False) as stored:
            if missing := [key for key in ("inputs", "labels") if key not in stored.files]:
                raise Unusable(f"no array {missing[0]}; it has {', '.join(sorted(stored.files)) or 'none'}")
            arrays = {key: stored[key] for key in ("inputs", "labels", "recordings") if key in stored.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise Unusable("holds Python objects, which are not read; save arrays of numbers and of text") from error
        raise
    inputs = _numbers(arrays["inputs"])
    count = len(inputs)
    labels = [_label(text, classes) for text in _texts("labels", arrays["labels"], count)]
    if odd := next((label for label in set(labels) if not is_label(label)), None):
        raise Unusable(f"label {odd!r:.60} {NO_LABEL}")
    if "recordings" in arrays:
        recordings = _texts("recordings", arrays["recordings"], count)
    else:
        recordings = [f"{file.name}#{row}" for row in range(count)]
    if inputs.dtype == np.uint8:
        return Piece(inputs, labels, recordings)
    finite = np.isfinite(inputs).all(axis=tuple(range(1, inputs.ndim)))
    if finite.all():
        return Piece(inputs, labels, recordings)
    kept, lost = np.flatnonzero(finite), np.flatnonzero(~finite)
    rows = ", ".join(map(str, lost[:_MOST_NAMED])) + (", ..." if len(lost) > _MOST_NAMED else "")
    return Piece(
        inputs[kept],
        [labels[row] for row in kept],
        [recordings[row] for row in kept],
        [f"{len(lost)} of {count} examples hold a value that is no finite number and are left out (rows {rows})"],
    )


def _numbers(inputs: Array) -> Array:
    if inputs.ndim < 2 or 0 in inputs.shape[1:]:
        raise Unusable(f"inputs have shape {inputs.shape}; expected (n, C, ...)")
    if inputs.dtype == np.uint8:
        return inputs
    if inputs.dtype.kind not in "biuf":
        raise Unusable(f"inputs are {inputs.dtype}; expected real numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold is left out as not finite
        return inputs.astype(np.float32)


def _texts(what: str, values: npt.NDArray[Any], count: int) -> list[str]:
    if values.shape != (count,):
        raise Unusable(f"{what} have shape {values.shape}; expected ({count},), one of each example")
    if values.dtype.kind not in "USiu":
        raise Unusable(f"{what} are {values.dtype}; expected texts or integers")
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    if broken := [text for text in texts if not is_text(text)]:
        raise Unusable(f"{what} hold {broken[0]!r}, which is not UTF-8")
    return texts


def _label(text: str, classes: Sequence[str]) -> str:
    if text in classes or not (text.isdecimal() and text.isascii()) or int(text) >= len(classes):
        return text
    return classes[int(text)]
