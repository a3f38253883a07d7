"""What a model costs where it runs: its C99 sources on an emulated chip, beside what the stock runtime asks for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from fedprune.export import apart, c99, litert, tflm
from fedprune.export.c99 import boards
from fedprune.export.chip.brought import brought
from fedprune.export.inspection.file import inspect
from fedprune.export.litert.flatbuffer import File, pack
from fedprune.export.litert.reader import operator_name, read
from fedprune.export.litert.runtime import Latency, Measured
from fedprune.types import Tensor


class Costs(NamedTuple):
    """One way to run a model on a chip. What is not known is None."""

    flash_bytes: int
    """All of it for C99; the model without the runtime for TensorFlow Lite Micro."""
    ram_bytes: int
    """Static memory and the deepest stack for C99; the arena for TensorFlow Lite Micro."""
    instructions: int | None
    differing: int | None = None
    """Inputs whose outputs are not, bit for bit, those of the reference kernels; None where none were compared."""
    beside: str = ""
    """Whose kernels those are; "" where none were compared."""


_WAYS: Mapping[str, c99.Optimise] = {"C99, smallest": c99.smallest, "C99, fastest": c99.fastest}


def on_chip(model: bytes, target: str, inputs: Tensor | None = None) -> dict[str, Costs]:
    """Return the costs of an int8 model on an emulated chip, one entry for each way to run it.

    Args:
        model: .tflite bytes; weights may be behind DECODE.
        target: a key of `boards.TARGETS` but for ``host``.
        inputs: (n, values), int8 or int32 tokens; without them one of noise.

    Raises:
        ModelError: the C kernels do not cover the model.
        RuntimeError: a tool is missing, or the C does not compile or run.
    """
    if lacking := boards.missing(target):
        raise RuntimeError(lacking)
    file, whole, *_ = brought(model)
    plain = pack(file)
    given = noise(plain) if inputs is None else inputs
    wanted, whose = expected(pack(whole), given)
    excused = whose == "LiteRT" and rounds_otherwise(file)
    found, sources = dict[str, Costs](), dict[str, Costs]()
    for way, optimise in _WAYS.items():
        made = c99.generate(plain, optimise)
        if made.source in sources:  # as of a model with every weight
            found[way] = sources[made.source]
            continue
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model.c").write_text(made.source, encoding="utf-8")
            (folder / "model.h").write_text(made.header, encoding="utf-8")
            ran = boards.run(folder, target, given)
        differing = None if wanted is None else int((ran.outputs != wanted).any(axis=1).sum())
        assert ran.flash_bytes is not None
        assert ran.ram_bytes is not None
        ram_bytes = ran.ram_bytes + (ran.stack_bytes or 0)
        found[way] = Costs(ran.flash_bytes, ram_bytes, ran.instructions, None if excused else differing, whose)
        sources[made.source] = found[way]
    return {**found, **stock(pack(whole))}


def beside_tflm(model: bytes, target: str) -> tuple[dict[str, Costs], int]:
    """Return what `on_chip` does, over random and extreme inputs, and how many they were.

    Raises as `on_chip`, and ``RuntimeError`` also where TensorFlow Lite Micro is not here or does not run the model.
    """
    if lacking := boards.missing(target):
        raise RuntimeError(lacking)
    whole = pack(brought(model).whole)
    tflm.arena_bytes(whole)
    inputs = trials(whole, _MOST_WORK)[0]
    return on_chip(model, target, inputs), len(inputs)


_MOST_WORK = 2**28  # multiply-adds that a chip is emulated for


def trials(model: bytes, most_work: int) -> tuple[Tensor, Tensor | None, str]:
    """Return random and extreme inputs of an int8 model, (n, values), and what `expected` says of them.

    They are 20, or fewer that take no more than ``most_work`` multiply-adds, at least one.
    """
    file = read(model)
    count = max(1, min(_INPUTS, most_work // max(1, inspect(model).macs)))
    inputs = litert.rows(file, count)
    try:
        return inputs, *expected(model, inputs)
    except RuntimeError:  # as of a softmax over values that are all equal, which ends the interpreters
        inputs = inputs[[at for at in range(count) if at not in litert.EXTREMES]]
        return inputs, *expected(model, inputs)


_INPUTS = 20


def expected(model: bytes, inputs: Tensor) -> tuple[Tensor | None, str]:
    """Return the outputs, (n, values), that C must give for ``inputs``, (n, values), and whose they are.

    Those are TensorFlow Lite Micro's; where that is not here, or lacks an operator, those of LiteRT's reference
    kernels; and None of a model with an inverse root of 16 bits, of which LiteRT's last step is another.

    Raises ``RuntimeError`` where neither runs the model.
    """
    try:
        return tflm.levels(model, inputs), "TensorFlow Lite Micro"
    except RuntimeError:
        file = read(model)
    for graph in (file, *file.subgraphs):
        for operator in graph.operators:
            if operator_name(operator) == "RSQRT" and graph.tensors[operator.output].dtype == np.int16:
                return None, ""
    try:
        return litert.reference(model, inputs), "LiteRT"
    except ValueError as error:  # as of a version of an operator that it does not know
        raise RuntimeError(str(error)) from error


_OTHERWISE = ("FULLY_CONNECTED", "LOGISTIC", "RELU6")


def rounds_otherwise(file: File) -> bool:
    """Return whether LiteRT's reference kernels may differ from TensorFlow Lite Micro's by a step, here or there."""
    return any(
        operator_name(operator) in _OTHERWISE for graph in (file, *file.subgraphs) for operator in graph.operators
    )


def stock(model: bytes) -> dict[str, Costs]:
    """Return what TensorFlow Lite Micro asks for besides its own code, with DECODE and without; nothing if unknown."""
    found = {}
    packed = tflm.pack_sparse(read(model))
    for way, each in {"TFLM": model, **({"TFLM, DECODE": packed} if len(packed) < len(model) else {})}.items():
        try:
            found[way] = Costs(len(each), tflm.arena_bytes(each), None)
        except (RuntimeError, ValueError):  # no interpreter here, or one that lacks an operator
            continue
    return found


def noise(model: bytes) -> Tensor:
    """Return one input of noise, (1, values) int8 or int32 tokens, the same for the same model."""
    return litert.rows(read(model))


def on_host(models: Sequence[bytes], *, runs: int = 50) -> list[Measured]:
    """Return what `runtime.measured` gives, measured in a process of its own; raises as it does.

    Raises ``RuntimeError`` also where the runtime ends over a model.
    """
    given = {f"model{at}": np.frombuffer(model, np.uint8) for at, model in enumerate(models)}
    found = apart.call("measured", {**given, "runs": np.array(runs)})
    latencies = [Latency(*found[f"latency{at}"].tolist()) for at in range(len(models))]
    return [Measured(latency, found[f"output{at}"]) for at, latency in enumerate(latencies)]
