"""The files of a folder by name: all but hidden ones and what systems leave behind; no link to a folder is followed."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from fedprune.data.examples import DataError
from fedprune.data.own.recorded import Unusable, line

_LEFT_BEHIND = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found", "system volume information", "$recycle.bin",
}  # fmt: skip


LONGEST_LABEL = 200
NO_LABEL = f"is no label, which has at most {LONGEST_LABEL} letters, all of them printable"


class File(NamedTuple):
    """A file of the folder, as it was when the folder was listed."""

    name: str
    """Its path in the folder, parts joined by /."""
    path: Path
    size: int
    modified_ns: int
    readable: bool

    @property
    def suffix(self) -> str:
        """What its name ends in, in small letters: .wav of HELLO.WAV."""
        return self.path.suffix.lower()


class Listed(NamedTuple):
    """A folder's files by name, and a line for everything that could not be listed."""

    files: tuple[File, ...]
    problems: tuple[str, ...]


def listed(folder: Path) -> Listed:
    """Return the files of ``folder`` and of all folders in it. DataError where it is none or may not be read."""
    try:
        os.listdir(folder)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(line(str(folder), f"cannot be read ({reason}); give the folder of recordings")) from error
    files: list[File] = []
    problems: list[str] = []

    def not_listed(error: OSError) -> None:
        problems.append(line(_name(folder, Path(error.filename)), f"cannot be listed ({error.strerror})"))

    for at, inner, names in os.walk(folder, onerror=not_listed):
        inner[:] = [name for name in inner if _used(name)]
        for link in [path for path in (Path(at, name) for name in inner) if path.is_symlink()]:
            problems.append(line(_name(folder, link), "a link to a folder is not followed; put the folder here"))
        for path in [Path(at, name) for name in names if _used(name)]:
            try:
                files.append(_file(_name(folder, path), path))
            except OSError as error:
                problems.append(line(_name(folder, path), f"cannot be read ({error.strerror})"))
            except Unusable as error:
                problems.append(line(_name(folder, path), error))
    return Listed(tuple(sorted(files)), tuple(sorted(problems)))


def label_of(file: File) -> str:
    """Return the label that a file's folder says: the first one on the way to it. Unusable where it lies in none."""
    label, slash, _ = file.name.partition("/")
    if not slash:
        raise Unusable(f"lies in no folder of a label; put it into one, such as hello/{file.name}")
    if not is_text(label):
        raise Unusable("its folder's name is not UTF-8; rename it")
    if not is_label(label):
        raise Unusable(f"its folder's name {NO_LABEL}; rename it")
    return label


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def is_label(name: str) -> bool:
    """Whether a name can be a class of a model: no server takes another from a device."""
    return name.isprintable() and len(name) <= LONGEST_LABEL


def _file(name: str, path: Path) -> File:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
        raise Unusable("not a plain file")
    return File(name, path, status.st_size, status.st_mtime_ns, os.access(path, os.R_OK))


def _used(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _LEFT_BEHIND


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
