"""Instructions of an inference on an emulated Cortex-A72, counted: unlike times under emulation, they do not vary."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_RUNS = 3


def missing() -> str | None:
    """Return None if instructions can be counted here, or one line that says what to install."""
    return None if shutil.which("cc") else "counting instructions needs a C compiler. On Debian: apt install gcc"


def instructions(models: Sequence[bytes]) -> list[int]:
    """Return the instructions of one inference of each model, on one thread.

    Raises ``RuntimeError`` as `aarch64.prepare`, and where the emulator takes no plugins.
    """
    from fedprune.export.litert import aarch64

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for position, model in enumerate(models):
            (folder / f"{position}.tflite").write_bytes(model)
        counts = folder / "counts"
        script = (str(Path(__file__).resolve()), name, str(len(models)))
        aarch64.run(script, _counting(folder, counts))
        marks = [int(line) for line in counts.read_text().split()]
    return [(end - start) // _RUNS for start, end in zip(marks[::2], marks[1::2], strict=True)]


def _counting(folder: Path, counts: Path) -> tuple[str, str]:
    """Return the emulator's options, with a plugin compiled into ``folder``."""
    from fedprune.export.litert import aarch64
    from simulations.benchmarks._plugins import counting

    failure = RuntimeError("the emulator takes no plugins")
    for options in counting("_instructions.c", folder, counts):
        try:
            aarch64.run(("--version",), options)
        except RuntimeError as error:
            failure = error
        else:
            return options
    raise failure


def _inside(folder: Path, count: int) -> None:
    """Run the models on the emulated side, each between two calls that the plugin looks for."""
    from fedprune.export.litert import runtime

    for position in range(count):
        model = runtime.ready(runtime.interpreter((folder / f"{position}.tflite").read_bytes()))
        runtime.feed(model)
        model.invoke()
        os.getpriority(os.PRIO_PROCESS, 0)
        for _ in range(_RUNS):
            model.invoke()
        os.getpriority(os.PRIO_PROCESS, 0)


if __name__ == "__main__":
    _inside(Path(sys.argv[1]), int(sys.argv[2]))
