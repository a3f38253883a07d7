"""Reading files at the door: optional packages, paths and parquet columns, each with an error that says what to do."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.data.examples import DataError, IntArray


def require(module: str, extra: str) -> Any:
    """Returns the imported `module`; raises `DataError` naming the package extra to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{module} cannot be imported ({error}): pip install 'fedprune[{extra}]'") from error


def existing(name: str, path: Path, remedy: str) -> Path:
    """Returns `path`; raises `DataError` with the `remedy` where there is no such file."""
    if not path.is_file():
        raise DataError(f"{name}: no {path.name} in {path.parent}; {remedy}")
    return path


def read_parquet(name: str, path: Path, columns: tuple[str, ...], remedy: str) -> Any:
    """Returns these `columns` as a `pyarrow.Table`; raises `DataError` with the `remedy` where they cannot be read."""
    parquet = require("pyarrow.parquet", "simulation")
    try:
        file = parquet.ParquetFile(path)
        if missing := [column for column in columns if column not in file.schema_arrow.names]:
            raise DataError(f"{name}: {path} has no column {missing[0]}; {remedy}")
        return file.read(columns=list(columns))
    except DataError:
        raise
    except (OSError, ValueError) as error:  # arrow's own errors are kinds of these
        raise DataError(f"{name}: {path} cannot be read as parquet ({error}); {remedy}") from error


def integers(name: str, path: Path, table: Any, column: str) -> IntArray:
    """Returns a column of a `pyarrow.Table` as int64 (n,); raises `DataError` where it holds anything else."""
    types = require("pyarrow.types", "simulation")
    values = table[column]
    if not types.is_integer(values.type) or values.null_count:
        raise DataError(f"{name}: column {column} of {path} is {values.type}, expected integers without gaps")
    return np.asarray(values.to_numpy(), np.int64)
