"""The runtime that this machine has for .tflite files, and how long a model takes on it."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedprune.export.stderr import caught
from fedprune.types import FloatTensor, Tensor

_INSTALL = 'pip install ai-edge-litert; on a 32-bit Raspberry Pi, pip install tflite-runtime "numpy<2"'
_WARM_UP = 3  # the first inferences fill caches and wake the processor
_TOKEN_BYTES = 4


class Latency(NamedTuple):
    """What inferences took, one after another, on one thread."""

    median_ms: float
    p90_ms: float
    """Nine of ten took no longer."""


class Measured(NamedTuple):
    """What a model took and what it gave for the fixed input."""

    latency: Latency
    output: Tensor
    """The model's first output as the file has it: float32 or integers, channels last."""


def interpreter(model: bytes, *, reference: bool = False) -> Any:
    """Return an interpreter of a .tflite file on one thread, not yet `ready`.

    It is ai-edge-litert's where that is installed, else that of tflite-runtime, which has the same methods. With
    ``reference`` it runs the plain kernels, else the fast ones (XNNPACK).

    Raises ``RuntimeError`` that says what to install where there is no runtime, and ``ValueError`` for bytes that are
    no .tflite file.
    """
    runtime = _runtime()
    kinds = runtime.OpResolverType
    kernels = kinds.BUILTIN_REF if reference else kinds.AUTO
    return runtime.Interpreter(model_content=model, experimental_op_resolver_type=kernels, num_threads=1)


def keeping_all(model: bytes) -> Any:
    """Return an interpreter of a .tflite file, ready to run, that keeps every tensor until it runs again."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    made = Interpreter(
        model_content=model,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
        num_threads=1,
    )
    made.allocate_tensors()
    return made


def ready(made: Any) -> Any:
    """Return the interpreter with its tensors allocated, to run; raises ``RuntimeError`` for operators it lacks."""
    caught(made.allocate_tensors)  # where the runtime greets every model with a line of its own
    return made


def latency_ms(model: bytes, *, runs: int = 50) -> Latency:
    """Return the latency of a model on this machine: one thread, batch 1, ``runs`` inferences after a warm-up.

    Raises as `interpreter` and `ready`, and ``ValueError`` for less than one run.
    """
    return measured([model], runs=runs)[0].latency


def measured(models: Sequence[bytes], *, runs: int = 50) -> list[Measured]:
    """Return what `latency_ms` returns of each model, with its output for one fixed input, the same on every machine.

    The models take turns, so that what else the machine does falls on all of them alike. Raises as `latency_ms`.
    """
    if runs < 1:
        raise ValueError(f"{runs} runs measure nothing: at least 1")
    interpreters = [ready(interpreter(model)) for model in models]
    for each in interpreters:
        feed(each)
        for _ in range(_WARM_UP):
            each.invoke()
    times_ms = np.empty((len(models), runs))
    for run in range(runs):
        for position, each in enumerate(interpreters):
            start = time.perf_counter()
            each.invoke()
            times_ms[position, run] = 1e3 * (time.perf_counter() - start)
    outputs = (each.get_tensor(each.get_output_details()[0]["index"]) for each in interpreters)
    return [Measured(_latency(row), output) for row, output in zip(times_ms, outputs, strict=True)]


def feed(made: Any) -> None:
    """Set a ready interpreter's inputs to numbers that are the same on every machine; tokens to the first two."""
    numbers = np.random.default_rng(0)
    for port in made.get_input_details():
        shape, dtype = tuple(port["shape"]), np.dtype(port["dtype"])
        values: Tensor = numbers.normal(size=shape)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            ends = (max(limits.min, -128), min(limits.max, 127)) if dtype.itemsize < _TOKEN_BYTES else (0, 1)
            values = numbers.integers(*ends, shape, endpoint=True)
        made.set_tensor(port["index"], values.astype(dtype))


def _latency(times_ms: FloatTensor) -> Latency:
    return Latency(float(np.median(times_ms)), float(np.quantile(times_ms, 0.9)))


def _runtime() -> Any:
    try:
        from ai_edge_litert import interpreter as runtime

        return runtime
    except ImportError:
        pass
    try:
        from tflite_runtime import interpreter as older  # type: ignore[import-not-found]
    except ImportError as error:
        raise RuntimeError(f"no runtime for .tflite files is installed: {_INSTALL}") from error
    # It says that any numpy will do, loads with any, and dies at the first model.
    if int(np.__version__.partition(".")[0]) >= 2:
        raise RuntimeError(f"tflite-runtime does not work with numpy {np.__version__}: {_INSTALL}")
    return older
