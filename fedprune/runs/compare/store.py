"""What cells came to, a line of JSON each: pieces of a table are kept in one file, and may be sent and joined."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedprune.experiment import ExperimentError
from fedprune.runs.compare.cell import LAST, Work
from fedprune.runs.compare.cells import Cell

_BEGINS = b'{"cell":'
Told = Mapping[str, Any]
"""What a cell came to: its curve, costs, and of a whole one what was measured."""


class Store:
    """A file of complete cells, which is only added to: of two lines about the same run the later one counts."""

    def __init__(self, file: Path) -> None:
        """Read what ``file`` has, where there is one; a line that is damaged counts as none.

        ExperimentError where it is a file of something else, which is not to be added to.
        """
        self._file = file
        self._told: dict[str, Told] = {}
        content = file.read_bytes() if file.exists() else b""
        if content and not content.startswith(_BEGINS):
            raise ExperimentError(f"{file}: no file of a comparison's cells; name one, or a new one")
        for line in content.splitlines():
            try:
                told = json.loads(line)
                self._told[told["asked"]] = told
            except (ValueError, TypeError, KeyError):  # cut short by a power cut, say
                continue

    def found(self, work: Work) -> Told | None:
        """What is known of a cell that was asked for in the same words; None where it is to be run."""
        told = self._told.get(_digest(work))
        return told if told and (not work.whole or "device" in told) else None

    def add(self, cell: Cell, work: Work, told: Told) -> Told:
        """Add a cell; returns what is kept of it."""
        if cell.rate:  # of a trial nothing else is asked
            told = {"curve": told["curve"][-LAST:]}
        asked = _digest(work)
        self._told[asked] = told = {"cell": cell.name(), "asked": asked, **told}
        self._file.parent.mkdir(parents=True, exist_ok=True)
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


def _digest(work: Work) -> str:
    """Of everything that a run hangs on: its experiment with the seed and the method, as written."""
    return hashlib.sha256(work.experiment.encode()).hexdigest()[:16]
