"""Columns of .csv and .parquet files: some as numbers, some as texts."""

import array
import csv
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedprune.data.examples import DataError
from fedprune.data.own.recorded import Unusable
from fedprune.data.sources import require

CSV, PARQUET = ".csv", ".parquet"
SUFFIXES = frozenset((CSV, PARQUET))

_NOTHING = {"", "na", "n/a", "null", "none"}
_MOST_NAMED = 30
_HEADER_LETTERS = 2**16

Numbers = npt.NDArray[np.float64]


class Columns(NamedTuple):
    """Columns by name, each of as many rows; a missing number is NaN, a missing text empty."""

    numbers: Mapping[str, Numbers]
    texts: Mapping[str, Sequence[str]]


def columns(path: Path, numbers: Sequence[str], texts: Sequence[str]) -> Columns:
    """Return these columns of a table. Unusable, or the libraries' own errors, where the file does not hold them."""
    reading = _parquet_columns if path.suffix.lower() == PARQUET else _csv_columns
    return reading(path, numbers, texts)


def rows(path: Path) -> Iterator[list[str]]:
    """Yield the header of a table, then its rows, all as text. Unusable where a row is longer or shorter."""
    if path.suffix.lower() == PARQUET:
        table = _arrow("pyarrow.parquet").ParquetFile(path)
        types = _arrow("pyarrow.types")
        if nested := [field.name for field in table.schema_arrow if types.is_nested(field.type)]:
            raise Unusable(f"column {nested[0]} holds lists, which no cell can")
        yield list(table.schema_arrow.names)
        for batch in table.iter_batches():
            yield from ([_text(value) for value in row.values()] for row in batch.to_pylist())
        return
    with _opened(path) as file:
        yield from _csv_rows(file)


def header(path: Path) -> list[str]:
    """Return the names of a table's columns."""
    return next(rows(path))


def number(text: str) -> float:
    """Return the number that a cell says, NaN where it says that there is none. ValueError where it is something else.

    >>> number(" 1.5"), number("NA")
    (1.5, nan)
    """
    if "_" in text:  # which Python reads as a number
        raise ValueError(text)
    return math.nan if text.strip().lower() in _NOTHING else float(text)


def _arrow(module: str) -> Any:
    try:
        return require(module, "tables")
    except DataError as error:  # other tables can be read without it
        raise Unusable(str(error)) from error


def _opened(path: Path) -> IO[str]:
    return path.open(encoding="utf-8-sig", newline="")


def _csv_rows(file: IO[str]) -> Iterator[list[str]]:
    """The header, then the rows of a file of comma-, semicolon- or tab-separated values; empty lines are none."""
    reader = csv.reader(file)
    try:
        first = next((text for text in iter(lambda: file.readline(_HEADER_LETTERS), "") if text.strip()), "")
        if not first:
            raise Unusable("is empty; expected a line of names of columns, then rows")
        # whatever cuts the header into most names
        delimiter = max(",;\t", key=lambda sign: len(next(csv.reader([first], delimiter=sign), [])))
        reader = csv.reader(itertools.chain([first], file), delimiter=delimiter)
        names = [name.strip() for name in next(reader)]
        yield names
        for index, row in enumerate(reader, 1):
            if len(row) == len(names):
                yield row
            elif row:
                raise Unusable(f"row {index} has {len(row)} cells, the header {len(names)}")
    except csv.Error as error:
        raise Unusable(f"line {reader.line_num} is no CSV ({error})") from error
    except UnicodeDecodeError as error:
        raise Unusable(f"is not UTF-8 ({error.reason}); save it as CSV in UTF-8") from error


def _csv_columns(path: Path, numbers: Sequence[str], texts: Sequence[str]) -> Columns:
    # A row at a time: all of them as texts would take twenty times the file's size.
    with _opened(path) as file:
        found = _csv_rows(file)
        names = next(found)
        places = _places(names, [*numbers, *texts])
        values = {name: array.array("d") for name in numbers}
        known: dict[str, str] = {}  # each text once
        said: dict[str, list[str]] = {name: [] for name in texts}
        for index, row in enumerate(found, 1):
            for name, column in values.items():
                try:
                    column.append(number(row[places[name]]))
                except ValueError:
                    raise Unusable(_no_number(row[places[name]], name, index)) from None
            for name, column_of_texts in said.items():
                text = row[places[name]].strip()
                column_of_texts.append(known.setdefault(text, text))
    return Columns({name: np.array(column, np.float64) for name, column in values.items()}, said)


def _parquet_columns(path: Path, numbers: Sequence[str], texts: Sequence[str]) -> Columns:
    file = _arrow("pyarrow.parquet").ParquetFile(path)
    _places(file.schema_arrow.names, [*numbers, *texts])
    table = file.read(columns=list(dict.fromkeys([*numbers, *texts])))
    types = _arrow("pyarrow.types")
    values = {}
    for name in dict.fromkeys(numbers):
        kind = table[name].type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
            raise Unusable(f"column {name} holds {kind}, expected numbers")
        values[name] = np.asarray(table[name].cast("float64", safe=False).to_numpy(), np.float64)
    return Columns(values, {name: [_text(value) for value in table[name].to_pylist()] for name in texts})


def _places(names: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    for name in wanted:
        if name not in names:
            shown = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
            raise Unusable(f"no column {name}; it has {shown}")
        if names.count(name) > 1:
            raise Unusable(f"more than one column is called {name}")
    return {name: names.index(name) for name in wanted}


def _text(value: Any) -> str:
    """What a value of a column is as text; whole numbers that a gap in the column made floats stay whole."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _no_number(text: str, name: str, row: int) -> str:
    shown = text if len(text) <= 20 else f"{text[:20]}..."
    point = "; write it with a point" if "," in text and _is_number(text.replace(",", ".")) else ""
    return f"column {name}, row {row}: {shown!r} is no number{point}"


def _is_number(text: str) -> bool:
    try:
        number(text)
    except ValueError:
        return False
    return True
