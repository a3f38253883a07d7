"""The process that foreign runtimes run in: it answers tasks, one after another, until its parent is gone."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from fedprune.export import apart
from fedprune.export.apart import Arrays

_MOST_BYTES = 4 << 30  # of its memory: a model that asks for more is refused by the system, not by the machine's end
_MOST_WRITTEN = 64 << 20  # bytes to standard error


def _litert(given: Arrays) -> Arrays:
    from fedprune.export.litert import interpreter

    return {"outputs": interpreter.run_here(given["model"].tobytes(), given["inputs"], reference=bool(given["plain"]))}


def _reference(given: Arrays) -> Arrays:
    from fedprune.export.litert import interpreter

    return {"outputs": interpreter.reference_here(given["model"].tobytes(), given["inputs"])}


def _tflm(given: Arrays) -> Arrays:
    from fedprune.export.tflm import interpreter

    outputs, arena_bytes = interpreter.run_here(given["model"].tobytes(), given["inputs"])
    return {"outputs": outputs, "arena_bytes": np.array(arena_bytes)}


def _tflm_levels(given: Arrays) -> Arrays:
    from fedprune.export.tflm import interpreter

    return {"outputs": interpreter.levels_here(given["model"].tobytes(), given["inputs"])}


def _tflm_arena(given: Arrays) -> Arrays:
    from fedprune.export.tflm import interpreter

    return {"arena_bytes": np.array(interpreter.arena_here(given["model"].tobytes(), given["input"]))}


def _extremes(given: Arrays) -> Arrays:
    from fedprune.export.litert import quantising

    inputs = [given[f"input{at}"] for at in range(len(given) - 2)]
    low, high = quantising.extremes_here(given["model"].tobytes(), given["places"], inputs)
    return {"low": low, "high": high}


def _measured(given: Arrays) -> Arrays:
    from fedprune.export.litert import runtime

    models = [given[f"model{at}"].tobytes() for at in range(len(given) - 1)]
    found = runtime.measured(models, runs=int(given["runs"]))
    latencies = {f"latency{at}": np.array(each.latency) for at, each in enumerate(found)}
    return latencies | {f"output{at}": each.output for at, each in enumerate(found)}


_TASKS: Mapping[str, Callable[[Arrays], Arrays]] = {
    "litert": _litert,
    "reference": _reference,
    "tflm": _tflm,
    "tflm_levels": _tflm_levels,
    "tflm_arena": _tflm_arena,
    "measured": _measured,
    "extremes": _extremes,
}


def _watch(parent: int) -> None:
    # While a task runs, nobody reads the pipe that its parent closed.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """Answer tasks from standard input on standard output, which no runtime gets to write to."""
    import resource

    source, result = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for limit, most in ((resource.RLIMIT_AS, _MOST_BYTES), (resource.RLIMIT_FSIZE, _MOST_WRITTEN)):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            task, limit_s, given = apart.asked(apart.read_frame(source))
        except EOFError:
            return
        # The system ends this process at the limit, whatever a runtime is doing, and whoever still waits for it.
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            answer = _TASKS[task](given)
        except Exception as error:  # whatever it is, the model is to blame, and the next task may go well
            answer = apart.failure(error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        apart.write_frame(result, answer)


if __name__ == "__main__":
    main()
