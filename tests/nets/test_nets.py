"""The table of nets as people bring them: every cell of every row."""

from pathlib import Path

import pytest
from brought import CELLS, KINDS, ROWS, counts, table
from brought_cells import TRIED, told


@pytest.mark.parametrize("name", ROWS)
def test_a_net_as_people_bring_it(name: str, tmp_path: Path) -> None:
    assert told(ROWS[name], tmp_path / "run") == {}


def test_every_cell_is_tried_and_the_table_is_long_enough() -> None:
    assert [*TRIED] == [*CELLS]
    assert len(ROWS) == sum(map(len, KINDS.values())) >= 40


def test_the_pages_show_the_table() -> None:
    root = Path(__file__).parents[2]
    assert (root / "docs" / "nets.md").read_text(encoding="utf-8").endswith(table())
    assert counts() in (root / "README.md").read_text(encoding="utf-8")
