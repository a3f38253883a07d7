"""Running a model in TensorFlow Lite Micro on this machine, and measuring the memory it works in."""

import re
from typing import Any

import numpy as np

from fedprune.export.litert import Affine, Port, arrange, results
from fedprune.export.stderr import caught
from fedprune.types import FloatTensor, Tensor


def run(model: bytes, inputs: Tensor) -> tuple[FloatTensor, int]:
    """Return the model's first output, float32, ``(n, classes)`` or a map, and the arena it used, in bytes.

    ``inputs`` are channels first, as in `fedprune.export.litert.run`, whose reference kernels give the same outputs bit
    for bit. The arena is that of a 64-bit machine, about 3 % more than a 32-bit one needs.

    Raises ``RuntimeError`` where ``tflite-micro`` is not installed or refuses the model.
    """
    interpreter = _interpreter(model)
    source, result = (_port(details) for details in _details(interpreter))
    samples = arrange(inputs, source)
    outputs = []
    for sample in samples:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    arena_bytes = _arena_bytes(interpreter)
    return results(np.stack(outputs), result), arena_bytes


def _interpreter(model: bytes) -> Any:
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError as error:
        raise RuntimeError(
            "no TensorFlow Lite Micro interpreter: `pip install tflite-micro` (x86-64 Linux only; elsewhere "
            "fedprune.export.litert.run(..., reference=True) computes the same outputs, without the arena)"
        ) from error
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
