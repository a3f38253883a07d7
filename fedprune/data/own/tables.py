"""Windows over rows of signals: each within one recording of one person and one label."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fedprune.data.examples import Array, IntArray
from fedprune.data.own import table_files
from fedprune.data.own.folders import NO_LABEL, File, is_label, is_text, label_of
from fedprune.data.own.recorded import Piece, Unusable
from fedprune.experiment.own_data import Tables

SUFFIXES = table_files.SUFFIXES


class Run(NamedTuple):
    """Rows ``first`` to ``end`` - 1: as many as follow each other and are of one label, recording and person."""

    first: int
    end: int


def read(file: File, settings: Tables) -> Piece:
    """Return the windows of a table, (n, signals, window) float32, by the order of their rows.

    A window that holds a value that is no finite number is left out, and so are rows without a label; the piece says
    how many. Unusable, or the libraries' own errors, where there is none.
    """
    folder = label_of(file) if settings.label == "folder" and not settings.targets else None
    label = "" if settings.targets or folder is not None else settings.label
    keys = [name for name in (label, _recording(settings), settings.person) if name]
    found = table_files.columns(file.path, [*settings.signals, *settings.targets], keys)
    count = len(found.numbers[settings.signals[0]]) if settings.signals else 0
    if not count:
        raise Unusable("has no rows")
    alike = settings.targets[0] if settings.targets else folder
    labels = [alike] * count if alike is not None else found.texts[settings.label]
    if broken := next((label for label in labels if not is_text(label)), None):
        raise Unusable(f"label {broken!r} is not UTF-8")
    if odd := next((label for label in set(labels) if not is_label(label)), None):
        raise Unusable(f"label {odd!r:.60} {NO_LABEL}")
    runs = list(runs_of([labels, *(found.texts[name] for name in keys)]))
    starts = [start for run in runs if labels[run.first] for start in starts_of(run, settings.window, settings.step)]
    problems = list(_without_label(runs, labels))
    if not starts:
        longest = max((run.end - run.first for run in runs if labels[run.first]), default=0)
        said = f"; {problems[0]}" if problems else ""
        raise Unusable(
            f"at most {longest} rows follow each other in one recording and label, a window has {settings.window}{said}"
        )
    windows = _windows(np.stack([found.numbers[name] for name in settings.signals]), starts, settings.window)
    finite: Array = np.all(np.isfinite(windows), axis=2)  # (n, signals)
    for channel, name in enumerate(settings.signals):
        if lost := int((~finite[:, channel]).sum()):
            problems.append(f"column {name}: {lost} of {len(starts)} windows hold no finite number, and are left out")
    whole: Array = np.all(finite, axis=1)
    ends = np.asarray(starts, np.int64) + settings.window - 1
    targets = np.stack([found.numbers[name][ends] for name in settings.targets], 1) if settings.targets else None
    if targets is not None:
        targets = targets.astype(np.float32)
        told: Array = np.all(np.isfinite(targets), axis=1)
        if lost := int((~told).sum()):
            problems.append(f"{lost} of {len(starts)} windows end without a target, and are left out")
        whole, targets = whole & told, targets[whole & told]
    kept = [start for start, good in zip(starts, whole, strict=True) if good]
    recordings = [_recording_at(file, settings, found, start) for start in kept]
    return Piece(windows[whole], [labels[start] for start in kept], recordings, problems, targets)


def runs_of(keys: Sequence[Sequence[str]]) -> Iterator[Run]:
    """Yield the runs of rows in which no column of ``keys`` changes: all rows, in order, each in one run.

    >>> list(runs_of([["sit", "sit", "walk"], ["1", "2", "2"]]))
    [Run(first=0, end=1), Run(first=1, end=2), Run(first=2, end=3)]
    """
    first = 0
    rows = zip(*keys, strict=True)
    before = next(rows, None)
    if before is None:
        return
    row = 0
    for row, here in enumerate(rows, 1):
        if here != before:
            yield Run(first, row)
            first, before = row, here
    yield Run(first, row + 1)


def starts_of(run: Run, window: int, step: int) -> range:
    """Return where the windows of a run begin; a ``step`` of 0 is a whole window.

    >>> list(starts_of(Run(10, 20), window=4, step=3))
    [10, 13, 16]
    """
    return range(run.first, run.end - window + 1, step or window)


def _windows(signals: Array, starts: Sequence[int], window: int) -> Array:
    """Windows (n, signals, window) float32 of ``signals`` (signals, rows)."""
    rows: IntArray = np.asarray(starts, np.int64)
    with np.errstate(over="ignore"):  # what float32 cannot hold is left out as not finite
        narrow = signals.astype(np.float32)
    windows: Array = np.lib.stride_tricks.sliding_window_view(narrow, window, axis=1)[:, rows]
    return np.ascontiguousarray(windows.transpose(1, 0, 2))


def _without_label(runs: Sequence[Run], labels: Sequence[str]) -> Iterator[str]:
    if lost := sum(run.end - run.first for run in runs if not labels[run.first]):
        yield f"{lost} of {len(labels)} rows have no label and are left out"


def _recording(settings: Tables) -> str:
    return "" if settings.recording == "file" else settings.recording


def _recording_at(file: File, settings: Tables, found: table_files.Columns, row: int) -> str:
    if not (column := _recording(settings)):
        return file.name
    name = found.texts[column][row]
    return f"{found.texts[settings.person][row]}/{name}" if settings.person else name
