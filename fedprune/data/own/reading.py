"""A device's folder as examples, by the name of the data: sounds, pictures, tables, arrays or one's own loader."""

import hashlib
import importlib.util
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from fedprune.data.examples import Array, DataError
from fedprune.data.own import arrays, kept, loaders, pictures, sounds, tables
from fedprune.data.own.features import features
from fedprune.data.own.folders import File, Listed, listed
from fedprune.data.own.recorded import Piece, Recorded, Unusable, line
from fedprune.data.sources import require
from fedprune.experiment import Data, own_data
from fedprune.experiment.own_data import Pictures, Sounds

_AS_READ = 1
"""Raised when the same file and settings give other examples than before, so that what is kept is made anew."""


class Kind(NamedTuple):
    """A layout of folders."""

    one: str
    """What one of its files is."""
    layout: str
    """What a folder holds."""
    suffixes: frozenset[str]
    reader: Callable[[Data], Callable[[File], Piece]]
    """DataError where its settings are of no use."""


def _sounds(settings: Data) -> Callable[[File], Piece]:
    table = settings.sounds or Sounds()
    try:
        table.kind()
        features(np.zeros((1, table.samples), np.float32), table)
    except (ValueError, NotImplementedError) as error:
        key = "data." if str(error).startswith("sounds.") else "data.sounds.features: "
        raise DataError(f"{key}{error}") from error
    return lambda file: sounds.read(file, table)


def _pictures(settings: Data) -> Callable[[File], Piece]:
    require("PIL.Image", "pictures")
    table = settings.pictures or Pictures()
    return lambda file: pictures.read(file, table)


def _tables(settings: Data) -> Callable[[File], Piece]:
    table = settings.tables
    if table is None or not table.signals:
        raise DataError('data.tables.signals: missing; name the columns that a model sees, such as ["ax", "ay", "az"]')
    return lambda file: tables.read(file, table)


KINDS = {
    "sounds": Kind("sound", "a folder a label with .wav files, such as hello/one.wav", sounds.SUFFIXES, _sounds),
    "pictures": Kind(
        "picture", "a folder a label with .jpg or .png files, such as cat/one.jpg", pictures.SUFFIXES, _pictures
    ),
    "tables": Kind("table", ".csv or .parquet files with a row of names of columns", tables.SUFFIXES, _tables),
    "arrays": Kind(
        "array",
        ".npz files with the arrays inputs (n, C, ...) and labels (n,)",
        arrays.SUFFIXES,
        lambda settings: lambda file: arrays.read(file, settings.classes),
    ),
}


def read(settings: Data, folder: Path) -> Recorded:
    """Return what ``folder`` holds, as far as it can be used; a line in ``problems`` for what cannot.

    A folder that was read before comes from the user's cache, unless `stamp` has changed. DataError, of one line, only
    where nothing can be read at all: no such folder, settings that are missing or contradict each other.
    """
    if ":" in settings.name:
        listed(folder)  # says what is wrong with the folder before a loader does
        return _composed(loaders.read(settings.name, folder))
    kind, files = _kind(settings), listed(folder)
    read_file, shape = kind.reader(settings), _expected_shape(settings)
    fresh = False

    def make() -> kept.Kept:
        nonlocal fresh
        fresh = True
        return _read(settings, kind, files, read_file, shape)

    found = kept.kept(folder, _stamp(settings, files), make)
    targets = np.array(found.targets, np.float32) if own_data.targets_of(settings) else None
    if targets is not None and not len(targets):
        targets = np.zeros((0, len(own_data.targets_of(settings))), np.float32)
    return _composed(Recorded(*found[:4], _signals(settings), targets, fresh))


def _composed(recorded: Recorded) -> Recorded:
    """With labels whose letters are one sign each: a Mac writes the é of one label in two, others in one."""
    names = {label: unicodedata.normalize("NFC", label) for label in set(recorded.labels)}
    return replace(recorded, labels=tuple(names[label] for label in recorded.labels))


def stamp(settings: Data, folder: Path) -> str:
    """Return a short text that changes when a file's name, size or time does, or what reading it depends on."""
    return _stamp(settings, listed(folder))


def shape_of(settings: Data) -> tuple[int, ...] | None:
    """Return what shape an example will have by the settings alone; None where only the files or a loader say it.

    DataError where a table of settings is missing or wrong.
    """
    if settings.name == "tables":
        _tables(settings)
    try:
        return own_data.shape_of(settings)
    except ValueError as error:
        raise DataError(f"data.sounds.features: {error}") from error


def _kind(settings: Data) -> Kind:
    if (kind := KINDS.get(settings.name)) is None:
        known = ", ".join(KINDS)
        raise DataError(
            f"data.name: {settings.name!r} is no layout of own recordings: choose one of {known}, or name a loader of "
            "your own as my_module:load"
        )
    return kind


def _expected_shape(settings: Data) -> tuple[int, ...] | None:
    by_settings = shape_of(settings)
    if settings.shape and by_settings and settings.shape != by_settings:
        raise DataError(
            f"data.shape: {list(settings.shape)}, but data.{settings.name} gives {list(by_settings)}; leave it out"
        )
    return by_settings or settings.shape or None


def _signals(settings: Data) -> tuple[str, ...]:
    return settings.tables.signals if settings.name == "tables" and settings.tables is not None else ()


def _stamp(settings: Data, files: Listed) -> str:
    table = getattr(settings, settings.name, None)  # of sounds, pictures or tables
    # what devices agree on is no reason to read everything once more, where it changes nothing
    agreed = (settings.shape, settings.classes) if settings.name == "arrays" else ()
    whatever = [settings.name, table, agreed]
    digest = hashlib.sha256(msgspec.json.encode([_AS_READ, whatever]))
    # what is installed may come to read what could not be read
    digest.update(repr([importlib.util.find_spec(each) is not None for each in ("soundfile", "pyarrow")]).encode())
    for file in files.files:
        digest.update(repr((file.name, file.size, file.modified_ns, file.readable)).encode())
    digest.update(repr(files.problems).encode())
    return digest.hexdigest()[:16]


def _read(
    settings: Data, kind: Kind, files: Listed, read_file: Callable[[File], Piece], shape: tuple[int, ...] | None
) -> kept.Kept:
    problems = list(files.problems)
    pieces = list(_pieces(kind, files.files, read_file, shape, problems))
    if not any(len(piece.labels) for piece in pieces):
        problems.append(f"nothing that can be used; expected {kind.layout}")
        nothing = np.zeros((0, *(shape or ())), np.uint8 if settings.name == "pictures" else np.float32)
        return kept.Kept(nothing, (), (), tuple(problems))
    return kept.Kept(
        np.concatenate([piece.inputs for piece in pieces]),
        tuple(label for piece in pieces for label in piece.labels),
        tuple(recording for piece in pieces for recording in piece.recordings),
        tuple(problems),
        tuple(tuple(row) for piece in pieces if piece.targets is not None for row in piece.targets.tolist()),
    )


def _pieces(
    kind: Kind,
    files: Sequence[File],
    read_file: Callable[[File], Piece],
    shape: tuple[int, ...] | None,
    problems: list[str],
) -> Iterator[Piece]:
    """What each file gives; appends what cannot be used to ``problems``."""
    first: Array | None = None
    for file in files:
        piece = _piece(kind, file, read_file)
        if isinstance(piece, str):
            problems.append(line(file.name, piece))
            continue
        problems += [line(file.name, problem) for problem in piece.problems]
        if not len(piece.labels):
            continue
        here, expected = piece.inputs.shape[1:], shape or (piece.inputs if first is None else first).shape[1:]
        if here != expected:
            reason = "data.shape says" if first is None else "the others have"
            problems.append(line(file.name, f"examples of shape {_by(here)}; {reason} {_by(expected)}"))
        elif first is not None and first.dtype != piece.inputs.dtype:
            problems.append(line(file.name, f"inputs are {piece.inputs.dtype}; the others are {first.dtype}"))
        else:
            first = piece.inputs
            yield piece


def _piece(kind: Kind, file: File, read_file: Callable[[File], Piece]) -> Piece | str:
    """What a file gives, or why it gives nothing."""
    if file.suffix not in kind.suffixes:
        return f"no {kind.one}; expected {kind.layout}"
    if not file.size:
        return f"no {kind.one} (the file is empty)"
    try:
        return read_file(file)
    except FileNotFoundError:
        return "is gone"
    except Unusable as error:
        return str(error)
    except DataError:
        raise
    except OSError as error:
        return f"no {kind.one} ({error.strerror or str(error).replace(str(file.path), file.name)})"
    except Exception as error:  # a damaged file fails in many ways, and all of them mean the same
        return f"no {kind.one} ({str(error).replace(str(file.path), file.name) or type(error).__name__})"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
