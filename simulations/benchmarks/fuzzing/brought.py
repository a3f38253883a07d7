"""A .tflite that somebody brings, of the kinds that the library itself does not write, at every command's door."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from simulations.benchmarks.fuzzing import tflite
from simulations.benchmarks.fuzzing.fields import spoilt
from simulations.benchmarks.fuzzing.target import Target


class _Made:
    """A graph in the making; ``put`` adds a tensor, ``add`` an operator that gives one."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.tensors: list[Any] = []
        self.operators: list[Any] = []

    def put(self, shape: tuple[int, ...], dtype: Any = np.int8, scale: float = 0.05, zero: int = 3, **more: Any) -> int:
        from fedprune.export.litert.flatbuffer import FileTensor

        scales = np.array([scale], np.float32) if scale else None
        made = FileTensor(shape, np.dtype(dtype), scales=scales, zero_point=zero if scale else 0, **more)
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, values: Any, dtype: Any = np.int32, scale: float = 0.0, zero: int = 0, **more: Any) -> int:
        data = np.asarray(values, dtype)
        return self.put(data.shape, dtype, scale, zero, data=data, **more)

    def add(
        self, code: str, inputs: Sequence[int], *outputs: int, options: str = "", custom: str = "", **more: Any
    ) -> int:
        from ai_edge_litert import schema_py_generated as schema

        from fedprune.export.litert.flatbuffer import FileOperator

        made = getattr(schema, f"{options}OptionsT")(**more) if options else None
        kind = getattr(schema.BuiltinOptions, f"{options}Options") if options else 0
        number, first = getattr(schema.BuiltinOperator, code), outputs[0] if outputs else -1
        self.operators.append(FileOperator(number, 2, (*inputs,), first, made, kind, custom, outputs[1:]))
        return first

    def linear(self, source: int, count: int, bias: Any = 0, clip: int = 0) -> int:
        size = int(np.prod(self.tensors[source].shape))
        weight = self.constant(self.random.integers(-127, 128, (count, size)), np.int8, 0.005)
        bias = self.constant(np.broadcast_to(bias, count), np.int32, 0.05 * 0.005)
        options: dict[str, Any] = {"options": "FullyConnected", "fusedActivationFunction": clip}
        return self.add("FULLY_CONNECTED", (source, weight, bias), self.put((1, count), zero=-128), **options)

    def conv(self, source: int, count: int, bias: Any = 0, clip: int = 0) -> int:
        _, *sizes, channels = self.tensors[source].shape
        weight = self.constant(self.random.integers(-127, 128, (count, 3, 3, channels)), np.int8, 0.005)
        bias = self.constant(np.broadcast_to(bias, count), np.int32, 0.05 * 0.005)
        options: dict[str, Any] = {"options": "Conv2D", "fusedActivationFunction": clip, "strideH": 1, "strideW": 1}
        return self.add("CONV_2D", (source, weight, bias), self.put((1, *sizes, count), zero=-128), **options)

    def file(self, inputs: Sequence[int], outputs: Sequence[int], graphs: Sequence[Any] = ()) -> Any:
        from fedprune.export.litert.flatbuffer import File

        return File(self.tensors, self.operators, (*inputs,), (*outputs,), graphs)


@cache
def seeds() -> Sequence[bytes]:
    """Small files, one of each kind."""
    from fedprune.export.litert.flatbuffer import pack

    kinds = (_several(), _streaming(), _constant(), _custom(), _floats(), _wide(), _remembering())
    return tuple(pack(each) for each in (_ends(np.float32), _ends(np.uint8), *kinds))


def _ends(dtype: Any) -> Any:
    made = _Made()
    grid = {"scale": 0.0} if dtype == np.float32 else {"scale": 0.05, "zero": 131}
    source = made.put((1, 6), dtype, **grid)  # type: ignore[arg-type]
    scores = made.linear(made.add("QUANTIZE", (source,), made.put((1, 6))), 3)
    soft = made.add("SOFTMAX", (scores,), made.put((1, 3), scale=1 / 256, zero=-128), options="Softmax", beta=1.0)
    grid = {"scale": 0.0} if dtype == np.float32 else {"scale": 1 / 256, "zero": 0}
    result = made.put((1, 3), dtype, **grid)  # type: ignore[arg-type]
    made.add("DEQUANTIZE" if dtype == np.float32 else "QUANTIZE", (soft,), result)
    return made.file((source,), (result,))


def _several() -> Any:
    made = _Made()
    first, second = made.put((1, 4, 4, 2)), made.put((1, 8))
    both = made.add("ADD", (first, made.conv(first, 2)), made.put((1, 4, 4, 2)), options="Add")
    halves = [made.put((1, 4, 4, 1)) for _ in range(2)]
    made.tensors[both] = made.tensors[first]
    made.add("SPLIT", (made.constant(3), both), *halves, options="Split", numSplits=2)
    return made.file((first, second), (*halves, made.linear(second, 3)))


def _streaming() -> Any:
    def handle(made: _Made) -> int:
        into = made.put((), np.uint8, 0.0, kind="RESOURCE")
        return made.add("VAR_HANDLE", (), into, options="VarHandle", container="", sharedName="frames")

    begins, made = _Made(), _Made()
    begins.add("ASSIGN_VARIABLE", (handle(begins), begins.constant(np.ones((1, 3, 4)), np.int8, 0.05, 3)))
    source = made.put((1, 1, 4))
    made.add("CALL_ONCE", (), options="CallOnce", initSubgraphIndex=1)
    kept = made.add("READ_VARIABLE", (variable := handle(made),), made.put((1, 3, 4)))
    whole = made.add("CONCATENATION", (kept, source), made.put((1, 4, 4)), options="Concatenation", axis=1)
    bounds = [made.constant(each) for each in ([0, 1, 0], [1, 4, 4], [1, 1, 1])]
    rest = made.add("STRIDED_SLICE", (whole, *bounds), made.put((1, 3, 4)), options="StridedSlice")
    made.add("ASSIGN_VARIABLE", (variable, rest))
    return made.file((source,), (made.linear(whole, 3),), (begins.file((), ()),))


def _constant() -> Any:
    """Channels that nothing moves, behind an activation and a sum."""
    made = _Made()
    source = made.put((1, 4, 4, 2))
    dead = np.where(np.arange(6) % 2, 0, -(2**20))
    ways = [made.conv(source, 6, dead, 1) for _ in range(2)]
    both = made.add("ADD", ways, made.put((1, 4, 4, 6)), options="Add")
    return made.file((source,), (made.conv(both, 2),))


def _custom() -> Any:
    made = _Made()
    source = made.put((1, 4, 4, 2))
    theirs = made.add("CUSTOM", (made.conv(source, 3),), made.put((1, 4, 4, 3)), custom="Theirs")
    return made.file((source,), (made.conv(theirs, 2),))


def _floats() -> Any:
    """Floats with sparse weights, which may be quantised on the way."""
    from fedprune.export.litert.flatbuffer import FileTensor, Sparsity

    made = _Made()
    source = made.put((1, 6), np.float32, 0.0)
    starts, columns = np.array([0, 2, 3, 5], np.int32), np.array([0, 4, 2, 1, 5], np.int32)
    values = made.random.normal(size=5).astype(np.float32)
    made.tensors.append(FileTensor((3, 6), np.dtype(np.float32), values, sparsity=Sparsity(starts, columns)))
    result = made.put((1, 3), np.float32, 0.0)
    made.add("FULLY_CONNECTED", (source, 1, -1), result, options="FullyConnected")
    return made.file((source,), (made.add("LOGISTIC", (result,), made.put((1, 3), np.float32, 0.0)),))


def _wide() -> Any:
    made = _Made()
    source, between = made.put((1, 4, 4, 2), np.int16, 1 / 4096, 0), made.put((1, 4, 4, 3), np.int16, 1 / 4096, 0)
    weight = made.constant(made.random.integers(-127, 128, (3, 3, 3, 2)), np.int8, 0.005)
    bias = made.constant(np.zeros(3), np.int64, 0.005 / 4096)
    made.add("CONV_2D", (source, weight, bias), between, options="Conv2D", strideH=1, strideW=1)
    for code, options in (("RELU", {}), ("LEAKY_RELU", {"options": "LeakyRelu", "alpha": 0.1})):
        between = made.add(code, (between,), made.put((1, 4, 4, 3), np.int16, 1 / 4096, 0), **options)
    return made.file((source,), (made.add("LOGISTIC", (between,), made.put((1, 4, 4, 3), np.int16, 1 / 32768, 0)),))


def _remembering() -> Any:
    made = _Made()
    source = made.put((1, 6))
    feature = made.constant(made.random.integers(-127, 128, (4, 6)), np.int8, 0.005)
    time = made.constant(made.random.integers(-9000, 9000, (4, 3)), np.int16, 1 / 128)
    bias, state = made.constant([9, -9], np.int32, 1 / 2**18), made.put((1, 12), np.int16, 1 / 2048, 0, variable=True)
    result = made.put((1, 2))
    made.add("SVDF", (source, feature, time, bias, state), result, options="SVDF", rank=2, fusedActivationFunction=1)
    return made.file((source,), (result,))


def export(content: bytes) -> None:
    """Inspect a file, make its C sources, and an int8 .tflite, of floats by examples of its own shape."""
    from fedprune.export.chip import foreign
    from fedprune.export.litert.quantising import is_float
    from fedprune.export.litert.reader import ModelError, read

    if not is_float(read(content)):
        tflite.run(content)
        foreign.lite(content)
        return
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "examples.npz"
        np.savez(data, np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32))
        try:
            foreign.files(content, "fuzzed", data=data)
        except ValueError as error:
            raise ModelError(str(error)) from error


def bench(content: bytes) -> None:
    """Measure a file on this machine, and what the C that is made of it gives, beside the runtime."""
    from fedprune.export.chip import benching, foreign
    from fedprune.export.litert.reader import ModelError

    foreign.files(content, "fuzzed", compare=True)
    try:
        benching.on_host([content], runs=1)
    except ValueError as error:  # the runtime's own words
        raise ModelError(str(error)) from error


def every() -> Sequence[bytes]:
    """Those, and the files that the library writes itself."""
    return (*seeds(), *tflite.seeds())


_DOCUMENTED = tflite.TARGETS["tflite"].documented
TARGETS: dict[str, Target] = {
    "brought": Target(every, export, _DOCUMENTED, spoilt),
    "brought_bench": Target(every, bench, _DOCUMENTED, spoilt),
}
