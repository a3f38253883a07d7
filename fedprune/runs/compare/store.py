"""What cells came to, a line of JSON each: pieces of a table are kept in one file, and may be sent and joined."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedprune.experiment import ExperimentError
from fedprune.runs.compare.cell import LAST, Work, answers, asked
from fedprune.runs.compare.cells import Cell

Told = Mapping[str, Any]
"""What a cell came to: its curve, costs, and of a whole one what was measured."""

_BEGINS = b'{"cell":'


class Store:
    """A file of complete cells, which is only added to: of two lines about the same run the later one counts."""

    def __init__(self, file: Path) -> None:
        """Read what ``file`` has, where there is one; a line that is damaged counts as none.

        ExperimentError where it is a file of something else, which is not to be added to.
        """
        self._file = file
        self._told: dict[str, Told] = {}
        content = file.read_bytes() if file.exists() else b""
        if content.strip() and _BEGINS not in content:
            raise ExperimentError(f"{file}: no file of a comparison's cells; name one, or a new one")
        for line in content.splitlines():
            # what stands before it was cut short, by a power cut, say, before files were joined
            start = max(0, line.rfind(_BEGINS))
            try:
                told = json.loads(line[start:])
                self._told[told["asked"]] = told
            except (ValueError, TypeError, KeyError, RecursionError):
                continue

    def open(self) -> None:
        """Make the file, before anything is run whose outcome it could not take. OSError where that cannot be."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.open("ab").close()

    def found(self, work: Work) -> Told | None:
        """What is known of a cell that was asked for in the same words; None where it is to be run."""
        told = self._told.get(asked(work))
        return told if answers(told, work) else None

    def add(self, cell: Cell, work: Work, told: Told) -> Told:
        """Add a cell; returns what is kept of it."""
        if cell.rate:  # of a trial nothing else is asked
            told = {"asked": told["asked"], "version": told["version"], "curve": told["curve"][-LAST:]}
        self._told[asked(work)] = told = {"cell": cell.name(), **told}
        with self._file.open("ab") as file:
            start = b"\n" if file.tell() and not _ends_in_a_line(self._file) else b""
            file.write(start + json.dumps(told, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return told


def _ends_in_a_line(file: Path) -> bool:
    with file.open("rb") as read:
        read.seek(-1, os.SEEK_END)
        return read.read() == b"\n"
