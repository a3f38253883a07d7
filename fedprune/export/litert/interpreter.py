"""Running a .tflite file on this machine, and what it says of its input and output."""

from typing import Any, NamedTuple

import numpy as np

from fedprune.export.litert import runtime
from fedprune.export.litert.quantise import Affine, to_float, to_int8
from fedprune.types import FloatTensor, Tensor


class Port(NamedTuple):
    """The input or the output of a model: its shape, channels last, and its int8 grid (None for floats)."""

    shape: tuple[int, ...]
    grid: Affine | None


class Ports(NamedTuple):
    """Both ends of a model."""

    input: Port
    output: Port


def run(model: bytes, inputs: Tensor, *, reference: bool = False) -> FloatTensor:
    """Return the model's first output, float32: ``(n, classes)``, or a map ``(n, C, H, W)``.

    ``inputs`` are floats, channels first, ``(n, C, H, W)`` or ``(n, C, L)``; they are put on the model's int8 grid, and
    its outputs are taken off it. With ``reference`` the plain kernels run, bit for bit those of TensorFlow Lite Micro;
    else the fast ones (XNNPACK), each of which may differ by one step. One thread.
    """
    interpreter = runtime.ready(runtime.interpreter(model, reference=reference))
    ports = _ports(interpreter)
    samples = arrange(inputs, ports.input)
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    outputs = np.empty((len(samples), *ports.output.shape[1:]), np.float32 if ports.output.grid is None else np.int8)
    for position, sample in enumerate(samples):
        interpreter.set_tensor(source, sample[None])
        interpreter.invoke()
        outputs[position] = interpreter.get_tensor(result)[0]
    return results(outputs, ports.output)


def results(outputs: Tensor, port: Port) -> FloatTensor:
    """Return what a model gave, ``(n, H, W, C)``, as floats: ``(n, F)`` for vectors, else channels first."""
    values = outputs if port.grid is None else to_float(outputs, port.grid)
    first: FloatTensor = np.moveaxis(values, -1, 1) if values.ndim == 4 else values
    return first.reshape(len(first), -1) if port.shape[1:-1] == (1, 1) else first


def quantisation(model: bytes) -> Ports:
    """Return the shape, scale and zero point of the model's input and output."""
    return _ports(runtime.interpreter(model))


def arrange(inputs: Tensor, port: Port) -> Tensor:
    """Return channels-first float inputs as the model takes them: ``(n, H, W, C)``, on its grid.

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
