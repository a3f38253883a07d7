"""A file rearranged so that XNNPACK on aarch64 recognises a net whose zeros it skips; it computes what it did."""

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.xnnpack import Body, Window


def arranged(file: File, body: Body) -> File:
    """Return the file in the form that XNNPACK recognises; ``body`` is what `body` says of it.

    - Windows at stride 2 have their zeros from an operator, all round, for SAME is refused there; what that adds at an
      end where a row was missing is never read.
    - Where the row is missing in front, as in TensorFlow's padding of even sizes, the image is mirrored and every
      window with it. Sums are then taken in another order.
    - The mean gives a vector, which a RESHAPE makes a map again. Else the classifier counts as one more layer of the
      body, and runtimes return noise (1.1 to 2.1) or refuse the file (2.3).
    """
    made = _Making(list(file.tensors), [])
    source = file.inputs[0]
    image = made.mirrored(source) if body.is_mirrored else source
    strided = {position: window for position, window in body.windows.items() if window.stride == 2}
    padding = {window.pad: window for window in strided.values()}
    for position, operator in enumerate(file.operators):
        moved = replace(operator, inputs=tuple(image if index == source else index for index in operator.inputs))
        if position in padding:
            made.pad(moved.inputs[0], padding[position], moved.output)
        elif position in strided:
            made.valid(moved, strided[position])
        elif position == body.mean:
            made.vector(moved)
        else:
            made.operators.append(moved)
    if body.is_mirrored:
        for index in {file.operators[position].inputs[1] for position in body.windows}:
            made.mirror_weight(index)
    return replace(file, tensors=made.tensors, operators=made.operators)


class _Making(NamedTuple):
    """The rearranged file in the making."""

    tensors: list[FileTensor]
    operators: list[FileOperator]

    def add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def integers(self, values: Any) -> int:
        data = np.asarray(values, np.int32)
        return self.add(FileTensor(data.shape, data.dtype, data))

    def emit(self, code: str, inputs: tuple[int, ...], output: int, name: str, **options: Any) -> None:
        schema = _schema()
        made = getattr(schema, f"{name}OptionsT")(**options)
        kind = getattr(schema.BuiltinOptions, f"{name}Options")
        self.operators.append(FileOperator(getattr(schema.BuiltinOperator, code), 1, inputs, output, made, kind))

    def mirrored(self, image: int) -> int:
        # One axis at a time: tflite-runtime gives something else for two. STRIDED_SLICE takes five times as long.
        for axis in (1, 2):
            result = self.add(replace(self.tensors[image], name=""))
            self.emit("REVERSE_V2", (image, self.integers([axis])), result, "ReverseV2")
            image = result
        return image

    def mirror_weight(self, index: int) -> None:
        weight = self.tensors[index]
        assert weight.data is not None
        self.tensors[index] = replace(weight, data=weight.data[:, ::-1, ::-1])

    def pad(self, source: int, window: Window, result: int) -> None:
        zeros = window.kernel // 2
        rows, columns = (size + 2 * zeros for size in window.size)
        tensor = self.tensors[result]
        self.tensors[result] = replace(tensor, shape=(tensor.shape[0], rows, columns, tensor.shape[3]))
        sides = self.integers([[0, 0], [zeros, zeros], [zeros, zeros], [0, 0]])
        self.emit("PAD", (source, sides), result, "Pad")

    def valid(self, operator: FileOperator, window: Window) -> None:
        padded = operator.inputs[0]
        if window.pad is None:
            padded = self.add(replace(self.tensors[padded], name=""))
            self.pad(operator.inputs[0], window, padded)
        options = copy.copy(operator.options)
        options.padding = _schema().Padding.VALID
        self.operators.append(replace(operator, inputs=(padded, *operator.inputs[1:]), options=options))

    def vector(self, mean: FileOperator) -> None:
        shape = self.tensors[mean.output].shape
        flat = self.add(replace(self.tensors[mean.output], shape=(shape[0], shape[-1]), name=""))
        self.emit("MEAN", mean.inputs, flat, "Reducer", keepDims=False)
        self.emit("RESHAPE", (flat, self.integers(shape)), mean.output, "Reshape", newShape=list(shape))


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated
