"""Foreign runtimes in a process of their own: what a model makes them do ends there, a crash, a hang, a full memory."""

import atexit
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import IO, Any, NamedTuple

import numpy as np

from fedprune.export.text import one_line
from fedprune.types import Tensor

Arrays = Mapping[str, Tensor]

LIMIT_S = 300.0
"""A task that takes longer is ended."""
_LENGTH_BYTES = 8
_MOST_BYTES = 2**32  # of a frame
_MOST_SAID = 300  # characters of what a runtime says, in an error
_NAMES = {
    "tflm": "TensorFlow Lite Micro",
    "tflm_arena": "TensorFlow Lite Micro",
    "tflm_levels": "TensorFlow Lite Micro",
}
_OTHER = "LiteRT"


def call(task: str, arrays: Arrays, *, limit_s: float | None = None) -> dict[str, Tensor]:
    """Return what a task of `fedprune.export.runtimes` gives for ``arrays``, computed in a child process.

    The child stays for further calls, and ends with this process. One that died is followed by another.

    Raises ``RuntimeError`` or ``ValueError`` as the task does, and ``RuntimeError`` where the child died or took more
    than ``limit_s`` seconds, `LIMIT_S` unless given; each in one line.
    """
    limit_s = LIMIT_S if limit_s is None else limit_s
    with _lock:
        child = _child()
        try:
            _rewound(child.said)
            write_frame(child.stdin, {**arrays, _TASK: np.array(task), _LIMIT: np.array(limit_s)})
            found = read_frame(child.stdout)
        except Exception as error:  # it is gone, or a model broke it and it answers nonsense
            raise RuntimeError(f"{_NAMES.get(task, _OTHER)} {_ended(child, limit_s)}") from error
        except BaseException:  # such as Ctrl-C: whatever it answers later is no answer to the next call
            _end(child)
            raise
    if _ERROR in found:
        kind = ValueError if str(found[_KIND]) == "ValueError" else RuntimeError
        raise kind(": ".join(filter(None, [one_line(str(found[_ERROR]), _MOST_SAID), _last(child.said)])))
    return found


_TASK, _LIMIT, _ERROR, _KIND = "task", "limit_s", "error", "kind"


def failure(error: Exception) -> Arrays:
    """Return the answer that makes `call` raise ``error``, as ``ValueError`` if it is one, else as ``RuntimeError``."""
    kind = "ValueError" if isinstance(error, ValueError) else "RuntimeError"
    named = isinstance(error, ValueError | RuntimeError | ImportError) and str(error)
    return {_ERROR: np.array(str(error) if named else f"{type(error).__name__} {error}"), _KIND: np.array(kind)}


def asked(arrays: dict[str, Tensor]) -> tuple[str, float, Arrays]:
    """Return the task, the limit in seconds and the arrays of a frame that `call` wrote."""
    task, limit_s = str(arrays.pop(_TASK)), float(arrays.pop(_LIMIT))
    return task, limit_s, arrays


def write_frame(stream: IO[bytes], arrays: Arrays) -> None:
    """Write named arrays: their length in bytes, then an .npz."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    stream.write(len(content.getbuffer()).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(content.getbuffer())
    stream.flush()


def read_frame(stream: IO[bytes]) -> dict[str, Tensor]:
    """Return what `write_frame` wrote; nothing in it is run. Raises ``EOFError`` where the stream ends before it."""
    length = stream.read(_LENGTH_BYTES)
    size = int.from_bytes(length, "little")
    if len(length) < _LENGTH_BYTES or size > _MOST_BYTES or len(content := stream.read(size)) < size:
        raise EOFError
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return dict(found)


class _Child(NamedTuple):
    process: "subprocess.Popen[bytes]"
    stdin: IO[bytes]
    stdout: IO[bytes]
    said: IO[bytes]
    """What it writes to standard error."""
    parent: int


_lock = Lock()
_children: list[_Child] = []


def _child() -> _Child:
    # A process that was forked has one of its own: two cannot talk over one pipe.
    if _children and (_children[0].parent != os.getpid() or _children[0].process.poll() is not None):
        _children.clear()
    if not _children:
        said: Any = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedprune.export.runtimes"], env=environment, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
            )  # fmt: skip
        except OSError as error:
            raise RuntimeError(f"no process could be started for the model: {error.strerror}") from error
        assert process.stdin is not None
        assert process.stdout is not None
        _children.append(_Child(process, process.stdin, process.stdout, said, os.getpid()))
    return _children[0]


def _end(child: _Child) -> None:
    _children.clear()
    child.process.kill()
    child.process.wait()
    for stream in (child.stdin, child.stdout, child.said):
        with suppress(OSError):  # what was not written yet is of no use to anybody
            stream.close()


@atexit.register
def _leave() -> None:
    for child in _children:
        if child.parent == os.getpid():
            _end(child)


def _ended(child: _Child, limit_s: float) -> str:
    try:
        code = child.process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        code = None
    last = _last(child.said)
    _end(child)
    if code is None:
        return "gave no answer on this model"
    if code == -signal.SIGALRM:
        return f"took more than {limit_s:g} s on this model"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return ": ".join(filter(None, [f"ended with {name} on this model", last]))


def _rewound(file: IO[bytes]) -> None:
    file.seek(0)  # of the child too, which shares the place
    file.truncate()


def _last(file: IO[bytes]) -> str:
    """The last line that a runtime wrote which is no greeting; "" where there is none."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
    lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return one_line(next((line for line in reversed(lines) if line and not line.startswith("INFO:")), ""), _MOST_SAID)
