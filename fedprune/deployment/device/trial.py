"""A .tflite file tried on this device, in a process of its own: what it takes, how fast it is, how good.

So a file over which the runtime crashes takes nothing else with it, and the memory is that of one model alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from fedprune import tasks
from fedprune.data import Schema
from fedprune.experiment import Experiment, from_json, to_json
from fedprune.types import Tensor

_INPUTS, _LABELS, _TASK = "inputs.npy", "labels.npy", "task.json"
_BATCH = 250
_LONGEST_S = 1500
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TrialError(RuntimeError):
    """A file that does not run here. Its message is one line that says why."""


class Trial(NamedTuple):
    """What one model did."""

    sums: Mapping[str, float]
    """Of the task, over the test examples."""
    seen: int
    """Test examples; 0 where there are none."""
    median_ms: float
    """Of an inference: one thread, batch 1, the runtime's fast kernels."""
    p90_ms: float
    memory_bytes: int | None
    """By how much the process grew at most, resident, from the loaded runtime to the last timed inference: the file,
    its packed weights, its tensors. None where the system does not say."""


def lay_out(
    folder: Path, experiment: Experiment, schema: Schema, count: int, batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Write ``count`` examples, normalised, where `attempt` finds them; a file, since a device may lack the memory.

    ``experiment`` and ``schema`` say what the model is judged by.
    """
    inputs: Tensor | None = None
    labels, at = np.zeros(count, np.int64), 0
    for batch, right in batches:
        if inputs is None:
            shape = (count, *batch.shape[1:])
            inputs = np.lib.format.open_memmap(folder / _INPUTS, "w+", np.float32, shape)
            labels = np.zeros((count, *right.shape[1:]), right.dtype)
        inputs[at : at + len(right)], labels[at : at + len(right)] = batch, right
        at += len(right)
    np.save(folder / _LABELS, labels)
    said = _Task(to_json(experiment), schema.classes, schema.target_mean, schema.target_std)
    (folder / _TASK).write_bytes(msgspec.json.encode(said))


class _Task(msgspec.Struct, frozen=True):
    """What a task is made of, for the process that runs the file."""

    experiment: str
    classes: tuple[str, ...]
    target_mean: tuple[float, ...]
    target_std: tuple[float, ...]


def attempt(model: Path, examples: Path) -> Trial:
    """Run a .tflite file on the examples that `lay_out` wrote. TrialError where it does not load, run, or fit them."""
    command = [sys.executable, "-m", __name__, str(model), str(examples)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_LONGEST_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TrialError(f"it takes more than {_LONGEST_S} s for this device's test examples") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise TrialError(f"the runtime ended with {name}: a damaged file, or too little memory")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        raise TrialError(said[-1] if said else f"the runtime ended with exit code {done.returncode}")
    answer = json.loads(lines[-1])
    if "why" in answer:
        raise TrialError(str(answer["why"]))
    return Trial(**answer)


def _measure(model: Path, examples: Path) -> Trial:
    from fedprune.export import litert
    from fedprune.export.litert import runtime

    content = model.read_bytes()
    litert.quantisation(content)  # loads the runtime, which is not the model's to answer for
    before = _resident("VmRSS")
    with suppress(OSError):
        _RESET.write_text("5")  # the peak so far is that of loading libraries
    latency = runtime.latency_ms(content)
    peak = _resident("VmHWM")
    memory = max(0, peak - before) if peak is not None and before is not None else None
    labels, said = np.load(examples / _LABELS), msgspec.json.decode((examples / _TASK).read_bytes(), type=_Task)
    task = tasks.of(from_json(said.experiment), said, np.empty(0, np.int64))
    sums = tasks.zeros(task)
    inputs = np.load(examples / _INPUTS, mmap_mode="r") if len(labels) else labels
    for start in range(0, len(labels), _BATCH):
        part = slice(start, start + _BATCH)
        outputs = litert.run(content, inputs[part])
        right = task.outputs(len(said.classes), labels.shape[1:])[0]
        if outputs.shape[1:] != right and outputs[0].size == np.prod(right):
            outputs = outputs.reshape(len(outputs), *right)
        sums = tasks.added(sums, task.sums(outputs, labels[part]))
    return Trial(sums, len(labels), latency.median_ms, latency.p90_ms, memory)


def _resident(key: str) -> int | None:
    # Linux keeps these for each process; getrusage's peak is inherited from the process that started this one.
    if not _STATUS.exists():
        return None
    found = [line.split() for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(found[0][1]) * 1024 if found else None


def main(model: str, examples: str) -> None:
    """Print what `attempt` returns, or why it cannot."""
    try:
        answer = _measure(Path(model), Path(examples))._asdict()
    except (RuntimeError, ValueError, ImportError, MemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        answer = {"why": lines[-1] if lines else type(error).__name__}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
