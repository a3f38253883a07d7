"""TOML that may come from anybody, read within bounds: what kind of file it is, its size, how deep it nests."""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

MOST_BYTES = 2**20
_DEEPEST = 64
# Keys of so many parts: the parser's time grows with the square of the parts. Atomic, so that no text makes it slow.
_LONG_KEY = re.compile(rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_DEEPEST}}}""")


class TomlError(ValueError):
    """A text that is no TOML, or one beyond the bounds; its message is one line without the file's name."""


def read(path: Path) -> dict[str, Any]:
    """The table of a plain file of at most ``MOST_BYTES``. OSError where it cannot be read, else TomlError."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would be waited for without end
    except ValueError as error:  # a name with NUL
        raise OSError(errno.EINVAL, str(error)) from error
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise TomlError(f"longer than {MOST_BYTES:,} bytes")
    try:
        return parse(content.decode())
    except UnicodeDecodeError as error:
        raise TomlError(str(error)) from error


def parse(text: str) -> dict[str, Any]:
    """The table of a TOML text. TomlError where it is none, or where it nests without end."""
    if _LONG_KEY.search(text):
        raise TomlError(f"a key of more than {_DEEPEST} parts")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise TomlError("lists or tables nest too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise TomlError(" ".join(str(error).split())) from error
    except ValueError as error:  # more than Python reads
        raise TomlError("a number of thousands of digits") from error
    if _deep(table, _DEEPEST):
        raise TomlError(f"lists or tables nest more than {_DEEPEST} deep")
    return table


def _deep(value: Any, most: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (most == 0 or any(_deep(each, most - 1) for each in inner))
