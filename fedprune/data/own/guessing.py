"""The [data] table that would fit a folder, by what lies in it."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from fedprune.data.examples import DataError
from fedprune.data.own import sounds, table_files
from fedprune.data.own.folders import File, label_of, listed
from fedprune.data.own.reading import KINDS
from fedprune.data.own.recorded import Unusable
from fedprune.data.sources import require
from fedprune.experiment import Data
from fedprune.experiment.own_data import Pictures, Sounds, Tables

LABELS = ("label", "labels", "activity", "class", "gesture", "target", "category", "y")
PEOPLE = ("person", "people", "subject", "subject_id", "user", "user_id", "participant", "who")
RECORDINGS = ("recording", "session", "trial", "take", "sequence")
_TIMES = ("time", "timestamp", "t", "date", "datetime", "index", "row", "id", "seconds", "ms", "")

_FILES, _ROWS, _LARGEST_SIDE = 20, 500, 128


def guess(folder: Path, label: str = "") -> Data:
    """Return settings that read ``folder``, by its files' suffixes and the first of them.

    ``label`` is the column of a table's labels where that is known. DataError where there is nothing of any kind, or no
    column that could be a table's label.
    """
    files = listed(folder).files
    count = Counter(name for file in files for name, kind in KINDS.items() if file.suffix in kind.suffixes)
    if not count:
        layouts = "; ".join(f"{name}: {kind.layout}" for name, kind in KINDS.items())
        raise DataError(f"{folder}: nothing that is read; expected one of {layouts}")
    name = count.most_common(1)[0][0]
    return _GUESSES[name]([file for file in files if file.suffix in KINDS[name].suffixes], label)


def people_in(names: Sequence[str]) -> str:
    """Return which of a table's columns says whose a row is, by its name; empty where none does."""
    return _called(names, PEOPLE)


def _sounds(files: Sequence[File], label: str) -> Data:
    rates: Counter[int] = Counter()
    for file in files[:_FILES]:
        try:
            rates[sounds.decoded(file.path)[1]] += 1
        except Exception:  # what is wrong with it is said when it is read
            continue
    return Data("sounds", "own", sounds=Sounds(rate=rates.most_common(1)[0][0]) if rates else Sounds())


def _pictures(files: Sequence[File], label: str) -> Data:
    image = require("PIL.Image", "pictures")
    sizes, grey = set(), True
    for file in files[:_FILES]:
        try:
            with image.open(file.path) as opened:
                sizes.add((opened.height, opened.width))
                grey = grey and opened.mode in ("1", "L", "LA", "I;16", "I")
        except Exception:  # what is wrong with it is said when it is read
            continue
    channels: Literal[1, 3] = 1 if sizes and grey else 3
    if len(sizes) == 1 and max(size := next(iter(sizes))) <= _LARGEST_SIDE:
        return Data("pictures", "own", pictures=Pictures(size, channels=channels, augment=channels == 3))
    return Data("pictures", "own", pictures=Pictures(channels=channels, augment=channels == 3))


def _tables(files: Sequence[File], label: str) -> Data:
    for file in files:
        try:
            names, *rows = itertools.islice(table_files.rows(file.path), _ROWS + 1)
            if rows and _signals(names, rows):
                break
        except Exception:  # what is wrong with it is said when it is read
            continue
    else:
        what = "expected names of columns, then rows of numbers"
        raise DataError(f"{files[0].path}: no table of this folder can be read; {what}")
    label, person, recording = label or _called(names, LABELS), people_in(names), _called(names, RECORDINGS)
    if not label:
        if not _in_folders(files):
            raise DataError(
                f"{file.path}: no column is called as labels are ({', '.join(LABELS)}): it has {', '.join(names)}; "
                'name it with --set "data.tables.label=COLUMN", or put files into a folder a label'
            )
        label = "folder"
    others = {label, person, recording}
    signals = tuple(name for name in _signals(names, rows) if name not in others)
    return Data("tables", "own", tables=Tables(signals, label, recording or "file", person))


def _signals(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    numeric = [name for place, name in enumerate(names) if _numeric([row[place] for row in rows])]
    return [name for name in numeric if name.lower() not in _TIMES]


def _called(names: Sequence[str], as_one_of: Sequence[str]) -> str:
    by_name = {name.lower(): name for name in names}
    return next((by_name[each] for each in as_one_of if each in by_name), "")


def _in_folders(files: Sequence[File]) -> bool:
    try:
        return bool([label_of(file) for file in files])
    except Unusable:
        return False


def _numeric(cells: Sequence[str]) -> bool:
    try:
        return any(value == value for value in map(table_files.number, cells))
    except ValueError:
        return False


_GUESSES: dict[str, Callable[[Sequence[File], str], Data]] = {
    "sounds": _sounds,
    "pictures": _pictures,
    "tables": _tables,
    "arrays": lambda files, label: Data("arrays", "own"),
}
