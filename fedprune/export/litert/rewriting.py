"""A float file rewritten operator by operator: the new file in the making, and how old tensors are seen in it."""

from dataclasses import replace
from typing import Any

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.views import View, as_map, permutation, plain
from fedprune.types import Tensor


class Rewriting:
    """A file in the making, and how the tensors of the old one are seen in it."""

    def __init__(self, file: File) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.old = file.tensors
        self.tensors: list[FileTensor] = []
        self.operators: list[FileOperator] = []
        self.views: dict[int, View] = {}
        self.flattened: dict[int, int] = {}
        """Vector -> the map it was, where that is not in the order of its base."""
        self._indices: dict[int, int] = {}
        self._filters: dict[int, int] = {}
        self._laid_out: dict[tuple[View, tuple[int, ...]], int] = {}

    def add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, values: Tensor) -> int:
        return self.add(FileTensor(values.shape, values.dtype, values))

    def filters(self, matrix: int) -> int:
        """Return an old matrix (rows, size) as the filters of a convolution of one position, once for all its users."""
        if matrix not in self._filters:
            data = self.old[matrix].data
            assert data is not None
            self._filters[matrix] = self.constant(data[:, None, None, :])
        return self._filters[matrix]

    def activation(self, shape: tuple[int, ...]) -> int:
        return self.add(FileTensor(shape, np.dtype(np.float32)))

    def tensor(self, index: int) -> int:
        """Return where an old tensor is in the new file, as it was."""
        if index < 0:
            return index
        if index not in self._indices:
            self._indices[index] = self.add(self.old[index])
        return self._indices[index]

    def source(self, index: int) -> int:
        """Return a new input of the file, a map in the stead of an old one."""
        shape = as_map(self.old[index].shape)
        self.views[index] = plain(self.add(replace(self.old[index], shape=shape)), shape)
        return self.views[index].base

    def view(self, index: int) -> View:
        if index not in self.views:
            if index in self.flattened:
                source = self.flattened[index]
                self._reshape(self.laid_out(source), self.tensor(index))
            self.views[index] = plain(self.tensor(index), self.old[index].shape)
        return self.views[index]

    def base(self, view: View) -> tuple[int, ...]:
        return self.tensors[view.base].shape

    def laid_out(self, index: int) -> int:
        """Return a tensor that holds an old one in its own order and shape, moved there if need be."""
        if index < 0 or self.old[index].data is not None:
            return self.tensor(index)
        return self.moved(self.view(index), self.old[index].shape)

    def moved(self, view: View, shape: tuple[int, ...]) -> int:
        """Return a tensor of ``shape`` that holds the values in the order of the view."""
        if view.is_plain and self.base(view) == shape:
            return view.base
        if (view, shape) not in self._laid_out:
            source = view.base
            if not view.is_plain:
                axes = permutation(view, self.base(view), shape)
                source = self._like(view.base, tuple(self.base(view)[axis] for axis in axes))
                inputs = (view.base, self.constant(np.array(axes, np.int32)))
                self.emit("TRANSPOSE", inputs, source, self.options("Transpose"))
            if self.tensors[source].shape != shape:
                source = self._reshape(source, self._like(source, shape))
            self._laid_out[view, shape] = source
        return self._laid_out[view, shape]

    def _like(self, index: int, shape: tuple[int, ...]) -> int:
        return self.add(FileTensor(shape, self.tensors[index].dtype))

    def _reshape(self, source: int, result: int) -> int:
        shape = self.tensors[result].shape
        inputs = (source, self.constant(np.array(shape, np.int32)))
        self.emit("RESHAPE", inputs, result, self.options("Reshape", newShape=list(shape)))
        return result

    def emit(self, code: str, inputs: tuple[int, ...], output: int, options: Any) -> None:
        kind = getattr(self.schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(
            FileOperator(getattr(self.schema.BuiltinOperator, code), 1, inputs, output, options, kind)
        )

    def options(self, name: str, **values: Any) -> Any:
        made = getattr(self.schema, f"{name}OptionsT")()
        for key, value in values.items():
            setattr(made, key, value)
        return made

    def positional(self, operator: FileOperator) -> None:
        """Write an operator as it was, its inputs laid out as it knows them."""
        inputs = tuple(self.laid_out(index) for index in operator.inputs)
        self.operators.append(replace(operator, inputs=inputs, output=self.tensor(operator.output)))

    def along(self, operator: FileOperator, inputs: tuple[int, ...], view: View, shape: tuple[int, ...]) -> None:
        """Write an operator whose output is seen as its input is: ``view``, on a base of ``shape``."""
        output = self.add(replace(self.old[operator.output], shape=shape))
        self.operators.append(replace(operator, inputs=inputs, output=output))
        self.views[operator.output] = View(output, tuple(axis for axis in view.order if shape[axis] > 1))
