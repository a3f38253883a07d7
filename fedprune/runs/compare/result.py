"""A comparison's folder: comparison.json and comparison.html, of whatever cells are complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedprune.files import write_atomically
from fedprune.runs.compare.asked import Comparison, reference
from fedprune.runs.compare.page import page
from fedprune.runs.compare.running import Ran
from fedprune.runs.compare.summary import Line, lines


class Written(NamedTuple):
    """Where a comparison lies, and its lines."""

    page: Path
    table: Path
    lines: list[Line]


def write(out: Path, name: str, asked: Comparison, ran: Ran) -> Written:
    """Write a comparison's page and its numbers."""
    found = lines(asked, ran.cells)
    content = {
        "against": reference(asked),
        "rates": ran.rates,
        "lines": [_plain(line) for line in found],
        "cells": {cell.name(): {**_short(told), **cell._asdict()} for cell, told in ran.cells.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    table, html = out / "comparison.json", out / "comparison.html"
    write_atomically(table, (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(html, page(name, asked, found, ran.rates).encode())
    return Written(html, table, found)


def _plain(value: Any) -> Any:
    table = value._asdict() if hasattr(value, "_asdict") else value
    return {key: _plain(each) for key, each in table.items()} if isinstance(table, Mapping) else table


def _short(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kept" if key == "density" else key: value
        for key, value in told.items()
        if key not in ("cell", "asked", "version")
    }
