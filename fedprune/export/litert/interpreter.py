"""Running a .tflite file on this machine, and what it says of its input and output."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedprune.export import apart
from fedprune.export.litert import runtime
from fedprune.export.litert.flatbuffer import File, FileTensor
from fedprune.export.litert.quantise import Affine, to_float, to_int8
from fedprune.export.litert.reader import read
from fedprune.export.litert.tokens import vocabulary
from fedprune.types import FloatTensor, Tensor


class Port(NamedTuple):
    """The input or the output of a model: its shape, channels last, and its grid (None for floats and tokens)."""

    shape: tuple[int, ...]
    grid: Affine | None
    vocabulary: int = 0
    """How many tokens there are, int32 from 0 on, where a file takes them; else 0."""
    wide: bool = False
    """Whether the numbers on the grid are int16."""


class Ports(NamedTuple):
    """Both ends of a model."""

    input: Port
    output: Port


def run(model: bytes, inputs: Tensor, *, reference: bool = False) -> FloatTensor:
    """Return the model's first output, float32: ``(n, classes)``, or a map ``(n, C, H, W)``.

    ``inputs`` are floats, channels first, ``(n, C, H, W)`` or ``(n, C, L)``; they are put on the model's int8 grid, and
    its outputs are taken off it. With ``reference`` the plain kernels run, bit for bit those of TensorFlow Lite Micro;
    else the fast ones (XNNPACK), each of which may differ by one step. One thread, in a process of its own.

    Raises ``ValueError`` if the inputs do not fit the model, and ``RuntimeError`` where the runtime refuses it, ends
    over it, or is not there.
    """
    given = {"model": np.frombuffer(model, np.uint8), "plain": np.array(reference)}
    count = max(1, _PART_BYTES // max(1, inputs[:1].nbytes))
    parts = [inputs[at : at + count] for at in range(0, max(1, len(inputs)), count)]
    limit_s = apart.LIMIT_S + _LONGEST_S * min(count, len(inputs))
    found = [apart.call("litert", {**given, "inputs": part}, limit_s=limit_s)["outputs"] for part in parts]
    return np.concatenate(found)


_LONGEST_S = 5.0  # of an inference, on a slow device
_PART_BYTES = 16 << 20  # of the inputs that the other process gets at once


def run_here(model: bytes, inputs: Tensor, *, reference: bool) -> FloatTensor:
    """Return what `run` returns, computed in this process, which a model may end."""
    interpreter = runtime.ready(runtime.interpreter(model, reference=reference))
    ports = _ports(interpreter)
    samples = arrange(inputs, ports.input)
    given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    samples = samples.astype(given["dtype"], copy=False)  # tokens, where it takes integers
    outputs = np.empty((len(samples), *ports.output.shape[1:]), np.float32 if ports.output.grid is None else np.int8)
    for position, sample in enumerate(samples):
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        outputs[position] = interpreter.get_tensor(result)[0]
    return results(outputs, ports.output)


def reference(model: bytes, inputs: Tensor) -> Tensor:
    """Return the int8 outputs, (n, values), of LiteRT's reference kernels for ``inputs`` as `rows` gives them.

    They run in a process of its own. Raises ``RuntimeError`` as `run`.
    """
    given = {"model": np.frombuffer(model, np.uint8), "inputs": inputs}
    return apart.call("reference", given)["outputs"]


def reference_here(model: bytes, inputs: Tensor) -> Tensor:
    """Return what `reference` returns, computed in this process, which a model may end."""
    running, file = runtime.ready(runtime.interpreter(model, reference=True)), read(model)
    sources, results = running.get_input_details(), running.get_output_details()
    outputs = []
    for row in inputs:
        for source, values in zip(sources, parts(file, row), strict=True):
            running.set_tensor(source["index"], values)
        running.invoke()
        outputs.append(joined([running.get_tensor(each["index"]) for each in results]))
    return np.stack(outputs)


def parts(file: File, row: Tensor) -> list[Tensor]:
    """Return the inputs of a file in its order, given their bytes one after the other, or a single one's values."""
    found, content = list[Tensor](), np.ascontiguousarray(row).reshape(-1).view(np.uint8)
    for index in file.inputs:
        tensor = file.tensors[index]
        size = math.prod(tensor.shape) * tensor.dtype.itemsize
        found.append(content[:size].view(tensor.dtype).reshape(tensor.shape))
        content = content[size:]
    return found


def joined(outputs: Sequence[Tensor]) -> Tensor:
    """Return the values of all outputs, one behind the other; their bytes where types differ."""
    alike = len({each.dtype for each in outputs}) == 1
    return np.concatenate([each.reshape(-1) if alike else each.reshape(-1).view(np.int8) for each in outputs])


def rows(file: File, count: int = 1, seed: int = 0) -> Tensor:
    """Return inputs as a model takes them, a row for each run: noise first, then the extremes, then more noise.

    A row is a single input's values, else the bytes of all inputs one after the other.
    """
    taken = all_ports(file)[0]
    types = [file.tensors[index].dtype for index in file.inputs]
    drawn = [
        [_drawn(port, at, seed + 1000 * place).astype(types[place]) for place, port in enumerate(taken)]
        for at in range(count)
    ]
    if len(taken) == 1:
        return np.stack([each[0].reshape(-1) for each in drawn])
    return np.stack([np.concatenate([part.reshape(-1).view(np.int8) for part in each]) for each in drawn])


EXTREMES = (1, 2, 3)
"""Which of `rows` are no noise: all the least, all the most, either at random."""


def _drawn(port: Port, at: int, seed: int) -> Tensor:
    if at not in EXTREMES:
        return noise(port, seed + at)
    low, high, dtype = _limits(port)
    if at == EXTREMES[2]:
        return np.where(noise(port, seed + at) * 2 < low + high, low, high - 1).astype(dtype)
    return np.full(port.shape, high - 1 if at == EXTREMES[1] else low, dtype)


def results(outputs: Tensor, port: Port) -> FloatTensor:
    """Return what a model gave, ``(n, H, W, C)``, as floats: ``(n, F)`` for vectors, else channels first."""
    values = outputs if port.grid is None else to_float(outputs, port.grid)
    first: FloatTensor = np.moveaxis(values, -1, 1) if values.ndim == 4 else values
    return first.reshape(len(first), -1) if port.shape[1:-1] == (1, 1) else first


def quantisation(model: bytes) -> Ports:
    """Return the shape, scale and zero point of the input and output of a model of our own, asking the runtime.

    `ports` asks nobody else, and is for models that somebody brings.
    """
    return _ports(runtime.interpreter(model))


def ports(file: File) -> Ports:
    """Return the shape, scale and zero point of the first input and output of a file as it was read."""
    sources, results = all_ports(file)
    return Ports(sources[0], results[0])


def all_ports(file: File) -> tuple[list[Port], list[Port]]:
    """Return the same of all inputs and all outputs."""
    sources, results = ([port(file.tensors[index]) for index in ends] for ends in (file.inputs, file.outputs))
    tokens = [vocabulary(file, place) for place in range(len(sources))]
    return [each._replace(vocabulary=count) for each, count in zip(sources, tokens, strict=True)], results


def noise(port: Port, seed: int = 0) -> Tensor:
    """Return one input of noise as a model takes it, ``(1, ...)``: int8, or int32 tokens that it knows."""
    low, high, dtype = _limits(port)
    return np.random.default_rng(seed).integers(low, high, port.shape, dtype)


def _limits(port: Port) -> tuple[int, int, type[np.signedinteger[Any]]]:
    if port.vocabulary:
        return 0, port.vocabulary, np.int32
    return (-(2**15), 2**15, np.int16) if port.wide else (-128, 128, np.int8)


def port(tensor: FileTensor) -> Port:
    """Return the shape and grid of a tensor; no grid for one that is neither int8 nor int16."""
    if tensor.scales is None or tensor.dtype not in (np.int8, np.int16):
        return Port(tensor.shape, None)
    grid = Affine(float(tensor.scales[0]), tensor.zero_point)
    return Port(tensor.shape, grid, wide=bool(tensor.dtype == np.int16))


def arrange(inputs: Tensor, port: Port) -> Tensor:
    """Return channels-first float inputs as the model takes them: ``(n, H, W, C)``, on its grid, or int32 tokens.

    Raises ``ValueError`` if the inputs have another shape.
    """
    shape = port.shape[1:]
    first = (shape[-1], *shape[:-1])  # (C, H, W)
    given = inputs.shape[1:]
    flat = tuple(size for axis, size in enumerate(first) if axis == 0 or size > 1)  # (C, L), (F,)
    if given not in (first, (first[0], *first[2:]), flat) or np.prod(given) != np.prod(first):
        raise ValueError(f"inputs of shape {given} do not fit a model that takes {first}, channels first")
    values = np.asarray(inputs, np.float32).reshape(len(inputs), *first)
    last = np.ascontiguousarray(np.moveaxis(values, 1, -1))
    if port.vocabulary:
        return last.astype(np.int32)
    return last if port.grid is None else to_int8(last, port.grid)


def _ports(interpreter: Any) -> Ports:
    ends = (interpreter.get_input_details()[0], interpreter.get_output_details()[0])
    source, result = (
        Port(
            tuple(int(size) for size in end["shape"]),
            Affine(float(end["quantization"][0]), int(end["quantization"][1])) if end["dtype"] == np.int8 else None,
        )
        for end in ends
    )
    return Ports(source, result)
