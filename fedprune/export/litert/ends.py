"""A model of int8 between ends of floats or uint8, as TensorFlow's converter makes it by default: the part inside."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import ModelError, operator_name

_HALF = 128  # from uint8 to int8, the same steps
_RELABELS = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")


class Inside(NamedTuple):
    """The part of a file that its ends are put around."""

    file: File
    inputs: tuple[str, ...]
    """The type of each input as the whole file takes it: ``int8``, ``uint8``, ``float32``, ``int32`` of tokens."""
    outputs: tuple[str, ...]
    """The type of each output as the whole file gives it."""


def inside(file: File) -> Inside:
    """Return a file without QUANTIZE and DEQUANTIZE at its ends: what they make and read are its ends now.

    Ends of uint8 become ends of int8, 128 less. A file that is float inside, or uint8, stays as it is there.

    Raises ``ModelError`` where an operator there has no input.
    """
    if any(not operator.inputs or operator.inputs[0] < 0 for operator in file.operators if _is_handled(operator)):
        raise ModelError("an operator at the model's ends lacks its input")
    dtypes = [tuple(file.tensors[index].dtype.name for index in ends) for ends in (file.inputs, file.outputs)]
    return Inside(_renamed(_without_floats(_signed(file))), dtypes[0], dtypes[1])


def _is_handled(operator: FileOperator) -> bool:
    return operator_name(operator) in ("QUANTIZE", "DEQUANTIZE", *_RELABELS)


def _signed(file: File) -> File:
    """The file with ends of int8 in the stead of uint8, where all that reads or makes them are QUANTIZE."""
    changed = {index for index in file.inputs if _is_uint8(file.tensors[index])}
    for operator in file.operators:  # other names of the same values
        if operator_name(operator) in _RELABELS and operator.inputs[0] in changed:
            changed.add(operator.output)
    for operator in reversed(file.operators):
        if (
            operator.outputs
            and _is_uint8(file.tensors[operator.output])
            and operator.output in {*file.outputs, *changed}
        ):
            changed.add(operator.output)
            if operator_name(operator) in _RELABELS:
                changed.add(operator.inputs[0])
    for operator in file.operators:
        ends = {*operator.inputs, *operator.outputs}
        if operator_name(operator) not in ("QUANTIZE", *_RELABELS) and not changed.isdisjoint(ends):
            return file  # uint8 inside
    tensors = [_less(tensor) if index in changed else tensor for index, tensor in enumerate(file.tensors)]
    return replace(file, tensors=tensors)


def _is_uint8(tensor: FileTensor) -> bool:
    return tensor.dtype == np.uint8 and tensor.scales is not None and tensor.data is None


def _less(tensor: FileTensor) -> FileTensor:
    return replace(tensor, dtype=np.dtype(np.int8), zero_point=tensor.zero_point - _HALF)


def _without_floats(file: File) -> File:
    inputs, outputs, gone = list(file.inputs), list(file.outputs), set[int]()
    names = dict[int, int]()
    for place, index in enumerate(inputs):
        readers = [at for at, operator in enumerate(file.operators) if index in operator.inputs]
        made = [file.operators[at].output for at in readers]
        quantised = all(operator_name(file.operators[at]) == "QUANTIZE" for at in readers)
        if _is_float(file, index) and made and quantised and len({_grid(file.tensors[at]) for at in made}) == 1:
            inputs[place] = made[0]
            names |= dict.fromkeys(made, made[0])
            gone.update(readers)
    makers = {operator.output: at for at, operator in enumerate(file.operators) if operator.outputs}
    read = {index for operator in file.operators for index in operator.inputs}
    for place, index in enumerate(outputs):
        at = makers.get(index)
        if at is None or index in read or not _is_float(file, index) or at in gone:
            continue
        source = names.get(file.operators[at].inputs[0], file.operators[at].inputs[0])
        if operator_name(file.operators[at]) == "DEQUANTIZE" and source not in (*outputs, *inputs):
            outputs[place] = source
            gone.add(at)
    return _reduced(file, gone, names, (*inputs,), (*outputs,))


def _is_float(file: File, index: int) -> bool:
    return file.tensors[index].dtype == np.float32


def _renamed(file: File) -> File:
    """The file without QUANTIZE that changes nothing."""
    names, gone, outputs = dict[int, int](), set[int](), list(file.outputs)
    for at, operator in enumerate(file.operators):
        if operator_name(operator) != "QUANTIZE" or operator.inputs[0] < 0:
            continue
        source = names.get(operator.inputs[0], operator.inputs[0])
        if file.tensors[source].data is not None or _grid(file.tensors[source]) != _grid(file.tensors[operator.output]):
            continue
        if operator.output in outputs:
            if source in outputs or source in file.inputs:
                continue
            outputs[outputs.index(operator.output)] = source
        names[operator.output] = source
        gone.add(at)
    return _reduced(file, gone, names, file.inputs, (*outputs,))


def _reduced(
    file: File, gone: set[int], names: Mapping[int, int], inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> File:
    if not gone:
        return file
    kept = [_reading(operator, names) for at, operator in enumerate(file.operators) if at not in gone]
    return replace(file, operators=kept, inputs=inputs, outputs=outputs)


def _reading(operator: FileOperator, names: Mapping[int, int]) -> FileOperator:
    return replace(operator, inputs=tuple(names.get(index, index) for index in operator.inputs))


def _grid(tensor: FileTensor) -> tuple[object, ...]:
    scales = () if tensor.scales is None else tuple(float(scale) for scale in tensor.scales)
    return tensor.dtype, scales, tensor.zero_point
