"""The bytes of a .tflite file: plain tensors and operators packed by the schema, every buffer aligned and inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedprune.types import FloatTensor, Tensor

ALIGNMENT = 16
"""Of each buffer in the file, in bytes: what SIMD kernels of a microcontroller load from flash."""

_FILE_VERSION = 3


@dataclass(frozen=True, eq=False)
class Sparsity:
    """Which values of a tensor are stored: all axes but the last are rows, compressed along the last (CSR)."""

    starts: Tensor
    """(rows + 1,): where each row's values begin."""
    columns: Tensor
    """(values,): the place of each value in its row."""

    @property
    def nbytes(self) -> int:
        """What both take in a file, each in the narrowest type that the format has for it."""
        return sum(places.size * _width(places).itemsize for places in (self.starts, self.columns))


@dataclass(frozen=True, eq=False)
class FileTensor:
    """One tensor of the file; ``data`` is None for an activation, ``scales`` for floats and shapes.

    With ``sparsity``, ``data`` holds the stored values alone, in the order of ``sparsity.columns``.
    """

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    data: Tensor | None = None
    scales: FloatTensor | None = None
    zero_point: int = 0
    axis: int = 0
    name: str = ""
    sparsity: Sparsity | None = None
    kind: str = ""
    """What the format calls its type, where numpy has none: ``RESOURCE``, ``INT4``. Then ``data`` are its bytes."""
    variable: bool = False
    """Whether it keeps its values from run to run."""


@dataclass(frozen=True, eq=False)
class FileOperator:
    """One operator of the file: builtin code and version, indices of tensors, its options; a custom one has a name.

    ``output`` is -1 for one that gives nothing, as ASSIGN_VARIABLE.
    """

    code: int
    version: int
    inputs: tuple[int, ...]
    output: int
    options: Any
    options_type: int
    custom: str = ""
    others: tuple[int, ...] = ()
    """Outputs after the first."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """All of them."""
        return (self.output, *self.others) if self.output >= 0 else ()


@dataclass(frozen=True, eq=False)
class File:
    """A whole model: its tensors, its operators in running order, and which tensors it reads and gives."""

    tensors: Sequence[FileTensor]
    operators: Sequence[FileOperator]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraphs: "Sequence[File]" = ()
    """What operators such as WHILE and CALL_ONCE run, by number from 1; none of them has subgraphs of its own."""


def pack(file: File) -> bytes:
    """Return the .tflite bytes; the same file gives the same bytes.

    Equal buffers and equal vectors are stored once.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    builder: Any = flatbuffers.Builder(1024)
    vectors, graphs = _Vectors(builder), (file, *file.subgraphs)
    codes = sorted({_kind(op) for graph in graphs for op in graph.operators})
    constants = (tensor for graph in graphs for tensor in graph.tensors if tensor.data is not None)
    contents = list(dict.fromkeys(_bytes(tensor) for tensor in constants))
    numbers = {content: 1 + position for position, content in enumerate(contents)}

    buffers = [_buffer(builder, schema, b""), *(_buffer(builder, schema, content) for content in contents)]
    subgraphs = _table(builder, [_subgraph(builder, schema, vectors, graph, numbers, codes) for graph in graphs])
    listed = _table(builder, [_code(builder, schema, *code) for code in codes])
    stored = _table(builder, buffers)
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, _FILE_VERSION)
    schema.ModelAddOperatorCodes(builder, listed)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddBuffers(builder, stored)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def _subgraph(
    builder: Any, schema: Any, vectors: "_Vectors", graph: File, buffers: dict[bytes, int], codes: list[Any]
) -> int:
    tensors = [_tensor(builder, schema, vectors, tensor, buffers) for tensor in graph.tensors]
    operators = [_operator(builder, schema, vectors, op, codes.index(_kind(op))) for op in graph.operators]
    tables = (_table(builder, tensors), _table(builder, operators))
    inputs, outputs = (vectors.of(np.array(ends, np.int32)) for ends in (graph.inputs, graph.outputs))
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tables[0])
    schema.SubGraphAddInputs(builder, inputs)
    schema.SubGraphAddOutputs(builder, outputs)
    schema.SubGraphAddOperators(builder, tables[1])
    return int(schema.SubGraphEnd(builder))


class _Vectors:
    """Vectors of numbers, each stored once however many tables point at it."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self._known: dict[tuple[str, bytes], int] = {}

    def of(self, values: Tensor) -> int:
        key = (values.dtype.str, values.tobytes())
        if key not in self._known:
            self._known[key] = _vector(self._builder, values.astype(values.dtype.newbyteorder("<")), 4)
        return self._known[key]


def _kind(operator: FileOperator) -> tuple[int, int, str]:
    return operator.code, operator.version, operator.custom


def _bytes(tensor: FileTensor) -> bytes:
    assert tensor.data is not None
    return np.ascontiguousarray(tensor.data, tensor.dtype.newbyteorder("<")).tobytes()


def _buffer(builder: Any, schema: Any, content: bytes) -> int:
    data = _vector(builder, np.frombuffer(content, np.uint8), ALIGNMENT) if content else 0
    schema.BufferStart(builder)
    if content:
        schema.BufferAddData(builder, data)
    return int(schema.BufferEnd(builder))


def _tensor(builder: Any, schema: Any, vectors: _Vectors, tensor: FileTensor, buffers: dict[bytes, int]) -> int:
    quantisation = 0
    if tensor.scales is not None:
        scales = vectors.of(tensor.scales.astype(np.float32))
        zero_points = vectors.of(np.full(len(tensor.scales), tensor.zero_point, np.int64))
        schema.QuantizationParametersStart(builder)
        schema.QuantizationParametersAddScale(builder, scales)
        schema.QuantizationParametersAddZeroPoint(builder, zero_points)
        schema.QuantizationParametersAddQuantizedDimension(builder, tensor.axis)
        quantisation = schema.QuantizationParametersEnd(builder)
    sparsity = 0
    if tensor.sparsity is not None:
        sparsity = _sparsity(builder, schema, vectors, tensor.sparsity, tensor.shape)
    name = builder.CreateString(tensor.name) if tensor.name else 0
    shape = vectors.of(np.array(tensor.shape, np.int32))
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, shape)
    schema.TensorAddType(builder, getattr(schema.TensorType, tensor.kind or tensor.dtype.name.upper()))
    if tensor.variable:
        schema.TensorAddIsVariable(builder, True)
    schema.TensorAddBuffer(builder, 0 if tensor.data is None else buffers[_bytes(tensor)])
    if name:
        schema.TensorAddName(builder, name)
    if quantisation:
        schema.TensorAddQuantization(builder, quantisation)
    if sparsity:
        schema.TensorAddSparsity(builder, sparsity)
    return int(schema.TensorEnd(builder))


def _sparsity(builder: Any, schema: Any, vectors: _Vectors, sparsity: Sparsity, shape: tuple[int, ...]) -> int:
    dimensions = []
    for size in shape[:-1]:
        schema.DimensionMetadataStart(builder)
        schema.DimensionMetadataAddDenseSize(builder, size)
        dimensions.append(schema.DimensionMetadataEnd(builder))
    starts, columns = (_places(builder, schema, vectors, places) for places in (sparsity.starts, sparsity.columns))
    schema.DimensionMetadataStart(builder)
    schema.DimensionMetadataAddFormat(builder, schema.DimensionType.SPARSE_CSR)
    schema.DimensionMetadataAddArraySegmentsType(builder, starts[0])
    schema.DimensionMetadataAddArraySegments(builder, starts[1])
    schema.DimensionMetadataAddArrayIndicesType(builder, columns[0])
    schema.DimensionMetadataAddArrayIndices(builder, columns[1])
    dimensions.append(schema.DimensionMetadataEnd(builder))
    order, levels = vectors.of(np.arange(len(shape), dtype=np.int32)), _table(builder, dimensions)
    schema.SparsityParametersStart(builder)
    schema.SparsityParametersAddTraversalOrder(builder, order)
    schema.SparsityParametersAddDimMetadata(builder, levels)
    return int(schema.SparsityParametersEnd(builder))


def _places(builder: Any, schema: Any, vectors: _Vectors, places: Tensor) -> tuple[int, int]:
    """Return (member of the schema's union, offset) of a table that holds ``places`` in the fewest bytes."""
    dtype = _width(places)
    kind, values = f"{dtype.name.capitalize()}Vector", vectors.of(places.astype(dtype))
    getattr(schema, f"{kind}Start")(builder)
    getattr(schema, f"{kind}AddValues")(builder, values)
    return getattr(schema.SparseIndexVector, kind), getattr(schema, f"{kind}End")(builder)


def _width(places: Tensor) -> "np.dtype[Any]":
    return next(dtype for dtype in map(np.dtype, ("u1", "u2", "i4")) if places.max() <= np.iinfo(dtype).max)


def _operator(builder: Any, schema: Any, vectors: _Vectors, operator: FileOperator, code: int) -> int:
    options = 0 if operator.options is None else operator.options.Pack(builder)
    inputs, outputs = (vectors.of(np.array(ends, np.int32)) for ends in (operator.inputs, operator.outputs))
    schema.OperatorStart(builder)
    schema.OperatorAddOpcodeIndex(builder, code)
    schema.OperatorAddInputs(builder, inputs)
    schema.OperatorAddOutputs(builder, outputs)
    if options:
        schema.OperatorAddBuiltinOptionsType(builder, operator.options_type)
        schema.OperatorAddBuiltinOptions(builder, options)
    return int(schema.OperatorEnd(builder))


def _code(builder: Any, schema: Any, code: int, version: int, custom: str) -> int:
    name = builder.CreateString(custom) if custom else 0
    schema.OperatorCodeStart(builder)
    if custom:
        schema.OperatorCodeAddCustomCode(builder, name)
    # Readers take the larger of the two: old ones know only the deprecated byte, which ends at 127.
    schema.OperatorCodeAddDeprecatedBuiltinCode(builder, min(code, 127))
    schema.OperatorCodeAddBuiltinCode(builder, code)
    schema.OperatorCodeAddVersion(builder, version)
    return int(schema.OperatorCodeEnd(builder))


def _vector(builder: Any, values: Tensor, alignment: int) -> int:
    builder.StartVector(values.itemsize, values.size, max(alignment, values.itemsize))
    builder.head = builder.head - values.nbytes
    builder.Bytes[builder.head : builder.head + values.nbytes] = values.tobytes()
    return int(builder.EndVector())


def _table(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
