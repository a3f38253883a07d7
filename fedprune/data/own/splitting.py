"""One folder a person, or a device, out of tables or of a data set: to try on one machine what a fleet will do."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedprune.data.examples import DataError, Dataset, IntArray
from fedprune.data.own import table_files
from fedprune.data.own.folders import File, listed
from fedprune.data.own.recorded import Unusable, line
from fedprune.data.partition import natural
from fedprune.data.parts import Pool
from fedprune.data.sources import require

_LONGEST_NAME = 100

Write = Callable[[Path, Dataset, IntArray], None]
"""(folder, data set, positions in both of its splits, one behind the other): write these examples there."""


class Split(NamedTuple):
    """What was written."""

    sizes: Mapping[str, int]
    """Rows or examples of each folder, by its name."""
    problems: tuple[str, ...] = ()
    """A line for each file, or piece of one, that is in none."""


def namer() -> Callable[[str], str]:
    """Return a function from any text to the name of a folder, the same for the same text.

    A name is the text's letters, digits, and - _ . in it. Different texts have different names, also where small and
    capital letters are the same.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()

    def name(text: str) -> str:
        if text not in names:
            plain = re.sub(r"[^\w.-]+", "_", text).strip("._")[:_LONGEST_NAME] or "_"
            free = itertools.chain([plain], (f"{plain}-{turn}" for turn in itertools.count(2)))
            names[text] = next(each for each in free if each.casefold() not in taken)
            taken.add(names[text].casefold())
        return names[text]

    return name


def empty(out: Path) -> Path:
    """Return ``out``, made where it is not there. DataError where it holds anything."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"--out {out}: is not empty; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def tables_by(folder: Path, column_of: Callable[[list[str]], str], out: Path) -> Split:
    """Write the rows of each value of a column to ``out``/VALUE/FILE.csv, FILE being each table's path in ``folder``.

    ``column_of`` tells the column by all of a table's. DataError where no table has it.
    """
    found = listed(folder)
    files = [file for file in found.files if file.suffix in table_files.SUFFIXES]
    if not files:
        raise DataError(f"{folder}: no table; expected .csv or .parquet files")
    name, sizes, problems = namer(), dict[str, int](), list(found.problems)
    empty(out)
    for file in files:
        try:
            buffers = _rows_by(file, column_of, problems)
        except Unusable as error:
            problems.append(line(file.name, error))
            continue
        except (OSError, ValueError) as error:  # arrow's own errors are kinds of these
            problems.append(line(file.name, f"no table ({error})"))
            continue
        for value, (count, text) in buffers.items():
            path = _free(out / name(value) / file.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.getvalue(), encoding="utf-8", newline="")
            sizes[name(value)] = sizes.get(name(value), 0) + count
    if not sizes:
        raise DataError(problems[0] if problems else f"{folder}: no row")
    return Split(dict(sorted(sizes.items())), tuple(problems))


def set_by(dataset: Dataset, groups: Mapping[str, IntArray], out: Path, write: Write) -> Split:
    """Write a data set's examples at the positions of each group to ``out``/GROUP."""
    empty(out)
    for name, positions in groups.items():
        write(out / name, dataset, positions)
    return Split({name: len(positions) for name, positions in groups.items()})


def people(dataset: Dataset) -> dict[str, IntArray]:
    """Return each person's positions in both splits, one behind the other. DataError where people are not known."""
    splits = [dataset.train, *([dataset.test] if dataset.test is not None else [])]
    known = [split.people for split in splits if split.people is not None]
    if len(known) < len(splits):
        raise DataError(f"{dataset.name} does not say whose its examples are: give --devices N instead of --by person")
    ids = np.concatenate(known)
    width = len(str(ids.max()))
    return {f"{ids[positions[0]]:0{width}}": positions for positions in natural(ids)}


def numbered(parts: Iterable[IntArray]) -> dict[str, IntArray]:
    """Return parts by their numbers from 0, all of as many digits."""
    listed_parts = [np.sort(part) for part in parts]
    width = len(str(len(listed_parts) - 1))
    return {f"{index:0{width}}": part for index, part in enumerate(listed_parts)}


def as_arrays(folder: Path, dataset: Dataset, positions: IntArray) -> None:
    """Write examples to ``folder``/examples.npz: inputs, names of labels, recordings."""
    folder.mkdir(parents=True)
    chosen = Pool(dataset.train, dataset.test).take(positions)
    np.savez(
        folder / "examples.npz",
        inputs=chosen.inputs,
        labels=np.array(dataset.classes)[chosen.labels],
        recordings=recordings(dataset)[positions],
    )


def as_pictures(folder: Path, dataset: Dataset, positions: IntArray) -> None:
    """Write examples to ``folder``/CLASS/POSITION.png. DataError where they are no pictures."""
    if dataset.train.inputs.dtype != np.uint8 or len(dataset.input_shape) != 3 or dataset.input_shape[0] not in (1, 3):
        raise DataError(f"{dataset.name}: its examples are no pictures; leave --as out")
    image, name = require("PIL.Image", "pictures"), namer()
    chosen = Pool(dataset.train, dataset.test).take(positions)
    shades = np.rint(np.arange(256) * dataset.scale * 255).clip(0, 255).astype(np.uint8)
    for position, pixels, label in zip(positions, chosen.inputs, chosen.labels, strict=True):
        path = folder / name(dataset.classes[label]) / f"{position:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(shades[pixels].transpose(1, 2, 0).squeeze()).save(path)


def recordings(dataset: Dataset) -> IntArray | np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Return which recording each example of both splits is of, as text (n,).

    Each is one of its own; but where examples share raw samples with those behind them, all that follow each other
    and are of one person and one label are one.
    """
    splits = [("train", dataset.train), *([("test", dataset.test)] if dataset.test is not None else [])]
    found: list[str] = []
    for name, examples in splits:
        numbers = np.arange(len(examples))
        if dataset.overlap:
            whose = examples.labels if examples.people is None else examples.people
            changes = (np.diff(examples.labels) != 0) | (np.diff(whose) != 0)
            numbers = np.concatenate([[0], np.cumsum(changes)])
        found += [f"{name}#{number}" for number in numbers]
    return np.array(found)


def _rows_by(
    file: File, column_of: Callable[[list[str]], str], problems: list[str]
) -> dict[str, tuple[int, io.StringIO]]:
    """(rows, text of a file) of each value."""
    found = table_files.rows(file.path)
    header = next(found)
    column = column_of(header)
    if column not in header:
        raise Unusable(f"no column {column}; it has {', '.join(header)}")
    place = header.index(column)
    texts: dict[str, io.StringIO] = {}
    counts: dict[str, int] = {}
    before, stretches = None, 0
    for row in found:
        value = row[place].strip()
        if value not in texts:
            texts[value], counts[value] = io.StringIO(newline=""), 0
            csv.writer(texts[value]).writerow(header)
        csv.writer(texts[value]).writerow(row)
        counts[value] += 1
        stretches += value != before
        before = value
    if lost := counts.pop("", 0):
        problems.append(line(file.name, f"{lost} rows have no {column} and are left out"))
    elif stretches > len(counts):
        reason = f"rows of one {column} lie apart, and now follow each other; a window may span two of their stretches"
        problems.append(line(file.name, f"{reason}, unless a column says the recording"))
    return {value: (count, texts[value]) for value, count in counts.items()}


def _free(path: Path) -> Path:
    """Where a table is written: as .csv, under another's name where that is taken."""
    if path.suffix.lower() == table_files.CSV:
        return path
    plain = path.with_suffix(table_files.CSV)
    return plain if not plain.exists() else path.with_name(path.name + table_files.CSV)
