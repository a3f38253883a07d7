"""Running a model in TensorFlow Lite Micro on this machine, and measuring the memory it works in."""

import re
from importlib.util import find_spec
from typing import Any

import numpy as np

from fedprune.export import apart
from fedprune.export.litert import Affine, Port, arrange, joined, parts, results, rows
from fedprune.export.litert.reader import read
from fedprune.export.stderr import caught
from fedprune.types import FloatTensor, Tensor


def run(model: bytes, inputs: Tensor) -> tuple[FloatTensor, int]:
    """Return the model's first output, float32, ``(n, classes)`` or a map, and the arena it used, in bytes.

    ``inputs`` are channels first, as in `fedprune.export.litert.run`, whose reference kernels give the same outputs bit
    for bit. The arena is that of a 64-bit machine, about 3 % more than a 32-bit one needs. The interpreter runs in a
    process of its own.

    Raises ``ValueError`` if the inputs do not fit the model, and ``RuntimeError`` where ``tflite-micro`` is not
    installed, refuses the model or ends over it.
    """
    _installed()
    given = {"model": np.frombuffer(model, np.uint8), "inputs": inputs}
    found = apart.call("tflm", given, limit_s=max(1, len(inputs)) * _LIMIT_S)
    return found["outputs"], int(found["arena_bytes"])


def arena_bytes(model: bytes) -> int:
    """Return the arena that an int8 model uses, in bytes.

    Shapes alone decide it. The input is noise or tokens all the same: a softmax over equal values would end the
    interpreter.

    Raises ``ModelError`` for a file that is not sound, and ``RuntimeError`` as `run`.
    """
    _installed()
    given = {"model": np.frombuffer(model, np.uint8), "input": rows(read(model))[0]}
    return int(apart.call("tflm_arena", given, limit_s=_LIMIT_S)["arena_bytes"])


_LIMIT_S = 120.0  # of one inference; 2^33 multiply-adds take a third of it


def arena_here(model: bytes, values: Tensor) -> int:
    """Return what `arena_bytes` returns, for an input as the model takes it, in this process."""
    interpreter = _interpreter(model)
    for place, each in enumerate(parts(read(model), values)):
        interpreter.set_input(each, place)
    interpreter.invoke()
    return _arena_bytes(interpreter)


def run_here(model: bytes, inputs: Tensor) -> tuple[FloatTensor, int]:
    """Return what `run` returns, computed in this process, which a model may end."""
    interpreter = _interpreter(model)
    source, result = (_port(details) for details in _details(interpreter))
    samples = arrange(inputs, source).astype(interpreter.get_input_details(0)["dtype"], copy=False)
    outputs = []
    for sample in samples:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    return results(np.stack(outputs), result), _arena_bytes(interpreter)


def levels(model: bytes, inputs: Tensor) -> Tensor:
    """Return the int8 outputs, (n, values), one behind the other, for ``inputs`` as `fedprune.export.litert.rows`.

    Raises ``RuntimeError`` as `run`.
    """
    _installed()
    given = {"model": np.frombuffer(model, np.uint8), "inputs": inputs}
    return apart.call("tflm_levels", given, limit_s=max(1, len(inputs)) * _LIMIT_S)["outputs"]


def levels_here(model: bytes, inputs: Tensor) -> Tensor:
    """Return what `levels` returns, computed in this process, which a model may end."""
    interpreter, file, outputs = _interpreter(model), read(model), []
    for row in inputs:
        for place, values in enumerate(parts(file, row)):
            interpreter.set_input(values, place)
        interpreter.invoke()
        outputs.append(joined([interpreter.get_output(place) for place in range(len(file.outputs))]))
    return np.stack(outputs)


def _installed() -> None:
    try:
        found = find_spec(_MODULE)
    except ImportError:
        found = None
    if found is None:
        raise RuntimeError(
            "no TensorFlow Lite Micro interpreter: `pip install tflite-micro` (x86-64 Linux only; elsewhere "
            "fedprune.export.litert.run(..., reference=True) computes the same outputs, without the arena)"
        )


_MODULE = "tflite_micro.python.tflite_micro"


def _interpreter(model: bytes) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    # Activations of a convolutional net can outweigh its file; the arena's true size is measured afterwards.
    return runtime.Interpreter.from_bytes(model, arena_size=len(model) * 10 + _ROOM_BYTES)


_ROOM_BYTES = 64 << 20


def _details(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return interpreter.get_input_details(0), interpreter.get_output_details(0)


def _port(details: dict[str, Any]) -> Port:
    numbers = details["quantization_parameters"]
    integer = np.dtype(details["dtype"]) == np.int8
    grid = Affine(float(numbers["scales"][0]), int(numbers["zero_points"][0])) if integer else None
    return Port(tuple(int(size) for size in details["shape"]), grid)


def _arena_bytes(interpreter: Any) -> int:
    _, report = caught(interpreter.print_allocations)
    found = re.search(r"Arena allocation total (\d+) bytes", report)
    if found is None:
        raise RuntimeError(f"TensorFlow Lite Micro reported no arena: {report[:200]!r}")
    return int(found[1])
