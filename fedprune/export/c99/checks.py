"""What makes a file none for the C kernels, in one line that names all of it and says what to do."""

from collections.abc import Container, Iterable

import numpy as np

from fedprune.export.c99.folding import FOLDED
from fedprune.export.litert.flatbuffer import File
from fedprune.export.litert.reader import ModelError, operator_name

_MOST_PLACES = 4  # operators of a kind that are named
_MOST_KINDS = 8
_FLOATS = frozenset(map(np.dtype, (np.float16, np.float32, np.float64)))


def check_types(file: File) -> None:
    """Raise ``ModelError`` for a file that is not of int8, but for parts of it."""
    made = {index for operator in file.operators for index in operator.outputs} | {*file.inputs}
    types = {file.tensors[index].dtype for index in made if file.tensors[index].data is None}
    if types.intersection(_FLOATS) and not types & {np.dtype(np.int8), np.dtype(np.int16)}:
        raise ModelError(
            "the model works on float32, and this is for int8: fedprune export FILE --calibrate DATA quantises it on "
            "the way, DATA being example inputs (an .npz or a folder of .npy files)"
        )
    floats = [
        (operator_name(operator), at)
        for at, operator in enumerate(file.operators)
        if any(file.tensors[index].dtype in _FLOATS for index in operator.outputs)
    ]
    if floats:
        raise ModelError(
            f"the model works on float32 in {_said(floats)}; C sources are for models that are int8 throughout: "
            "convert it with int8 kernels alone (TFLITE_BUILTINS_INT8)"
        )
    if np.dtype(np.uint8) in {tensor.dtype for tensor in file.tensors if tensor.scales is not None}:
        raise ModelError(
            "the model works on uint8, as converters wrote before int8, for which neither C sources nor TensorFlow "
            "Lite Micro have kernels: convert it again, to int8"
        )


def check_covered(file: File, covered: Container[str]) -> None:
    """Raise ``ModelError`` that names all operators without a kernel, and where they are."""
    names = [(operator_name(operator), at) for at, operator in enumerate(file.operators)]
    if lacking := [(name, at) for name, at in names if name not in covered and name not in FOLDED]:
        raise ModelError(f"no C kernel covers {_said(lacking)}")


def _said(found: Iterable[tuple[str, int]]) -> str:
    kinds = dict[str, list[int]]()
    for name, at in found:
        kinds.setdefault(name, []).append(at)
    said = []
    for name, places in [*kinds.items()][:_MOST_KINDS]:
        shown = name if name.isidentifier() else repr(name[:60])  # on one line, whatever a custom one is called
        more = ", ..." if len(places) > _MOST_PLACES else ""
        said.append(f"{shown} (operator {', '.join(map(str, places[:_MOST_PLACES]))}{more})")
    return ", ".join(said) + (f" and {len(kinds) - _MOST_KINDS} kinds more" if len(kinds) > _MOST_KINDS else "")
