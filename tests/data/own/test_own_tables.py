"""Folders of tables: windows over rows, within one recording of one person and one label."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_folders import TABLES, problem, write_table
from own_folders import settings_of_tables as settings

from fedprune.data import DataError
from fedprune.data.own import read
from fedprune.data.own.tables import Run, runs_of, starts_of
from fedprune.experiment import Data


def numbered(labels: Sequence[str], *others: str) -> list[tuple[object, ...]]:
    """A row for each letter: its number, its number and a half, the letter, and a letter of each other column."""
    return [(row, row + 0.5, *letters) for row, letters in enumerate(zip(labels, *others, strict=True))]


def firsts(settings: Data, folder: Path) -> list[tuple[int, str, str]]:
    """(first row, label, recording) of each window."""
    recorded = read(settings, folder)
    starts = [round(float(window[0, 0])) for window in recorded.inputs]
    return list(zip(starts, recorded.labels, recorded.recordings, strict=True))


def test_windows_follow_each_other_within_a_label(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", numbered("ssssssswwwwss"))
    recorded = read(TABLES, tmp_path)
    assert firsts(TABLES, tmp_path) == [(0, "s", "a.csv"), (3, "s", "a.csv"), (7, "w", "a.csv")]
    assert recorded.inputs.dtype == np.float32
    assert recorded.inputs[1].tolist() == [[3, 4, 5], [3.5, 4.5, 5.5]]
    assert (recorded.features, recorded.problems) == (("ax", "ay"), ())
    assert [row for row, *_ in firsts(settings(step=2), tmp_path)] == [0, 2, 4, 7]
    assert [row for row, *_ in firsts(settings(step=1), tmp_path)] == [0, 1, 2, 3, 4, 7, 8]


def test_recordings_and_people_are_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", numbered("wwwwwwwwww", "1112222222", "aaaaaabbbb"), "ax,ay,label,take,who")
    assert firsts(settings(recording="take"), tmp_path) == [(0, "w", "1"), (3, "w", "2"), (6, "w", "2")]
    whose = settings(recording="take", person="who")
    assert firsts(whose, tmp_path) == [(0, "w", "a/1"), (3, "w", "a/2"), (6, "w", "b/2")]
    # a person's rows end a window, even where the file is the recording
    assert [row for row, *_ in firsts(settings(person="who", window=4), tmp_path)] == [0, 6]


def test_the_folder_may_be_the_label(tmp_path: Path) -> None:
    write_table(tmp_path / "walk" / "monday" / "a.csv", [(1, 2)] * 3, "ax,ay")
    write_table(tmp_path / "b.csv", [(1, 2)] * 3, "ax,ay")
    assert firsts(settings(label="folder"), tmp_path) == [(1, "walk", "walk/monday/a.csv")]
    assert problem(settings(label="folder"), tmp_path).startswith("b.csv: lies in no folder of a label")


LAYOUTS = {
    "semicolons": "ax;ay;label\n1;2;s\n3;4;s\n5;6;s\n",
    "tabs": "ax\tay\tlabel\n1\t2\ts\n3\t4\ts\n5\t6\ts\n",
    "a byte order mark and carriage returns": "\ufeffax,ay,label\r\n1,2,s\r\n3,4,s\r\n5,6,s\r\n",
    "quotes": '"ax","ay","label"\n"1","2","s"\n"3","4","s"\n"5","6","s"\n',
    "blanks and empty lines": "\nax, ay ,label\n1, 2,s\n\n3, 4, s\n5 ,6,s\n\n",
    "other columns in another order": "time,label,ay,ax\n0,s,2,1\n1,s,4,3\n2,s,6,5\n",
    "other columns with commas in quotes": 'note;label;ay;ax\n"a,b,c;d";s;2;1\n;s;4;3\n;s;6;5\n',
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_files_as_people_have_them(tmp_path: Path, layout: str) -> None:
    (tmp_path / "A.CSV").write_bytes(LAYOUTS[layout].encode())
    recorded = read(TABLES, tmp_path)
    assert recorded.problems == ()
    assert recorded.inputs.tolist() == [[[1, 3, 5], [2, 4, 6]]]
    assert recorded.labels == ("s",)


BAD = {
    "empty": ("", "no table (the file is empty)"),
    "blank": ("\n\n", "is empty; expected a line of names of columns, then rows"),
    "no rows": ("ax,ay,label\n", "has no rows"),
    "no column": ("time,ax,label\n1,2,s\n", "no column ay; it has time, ax, label"),
    "a column twice": ("ax,ay,ax,label\n1,2,3,s\n", "more than one column is called ax"),
    "a row too short": ("ax,ay,label\n1,2,s\n3,4\n", "row 2 has 2 cells, the header 3"),
    "a row too long": ("ax,ay,label\n1,2,s\n3,4,5,s\n", "row 2 has 4 cells, the header 3"),
    "decimal commas": (
        'ax;ay;label\n"1,5";2;s\n',
        "column ax, row 1: '1,5' is no number; write it with a point",
    ),
    "a word": ("ax,ay,label\n1,2,s\n1,high,s\n", "column ay, row 2: 'high' is no number"),
    "underscores": ("ax,ay,label\n1,1_0,s\n", "column ay, row 1: '1_0' is no number"),
    "too few rows": ("ax,ay,label\n1,2,s\n3,4,s\n5,6,w\n", "at most 2 rows follow each other in one recording and"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unfit_file_is_a_line_and_others_go_on(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    write_table(tmp_path / "b.csv", numbered("sss"))
    (tmp_path / "a.csv").write_text(content)
    assert problem(TABLES, tmp_path).startswith(f"a.csv: {said}")
    assert read(TABLES, tmp_path).recordings == ("b.csv",)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("ax;ay;label;°\n1;2;s;3\n".encode("latin-1"))
    (tmp_path / "b.csv").write_bytes("ax,ay,label\n1,2,s\n".encode("utf-16"))
    (tmp_path / "c.csv").write_bytes(b"PK\3\4\0\0\0\xff\xfe")
    found = read(TABLES, tmp_path).problems
    assert len(found) == 4
    assert all("not UTF-8" in said for said in found[:3]), found


@pytest.mark.parametrize("cell", ["", "nan", "NA", "inf", "-Infinity", "1e39", "null"])
def test_windows_with_no_finite_number_are_left_out_and_said(tmp_path: Path, cell: str) -> None:
    rows = [list(row) for row in numbered("sssssssss")]
    rows[4][1] = cell
    write_table(tmp_path / "a.csv", rows)
    assert [row for row, *_ in firsts(TABLES, tmp_path)] == [0, 6]
    assert problem(TABLES, tmp_path) == "a.csv: column ay: 1 of 3 windows hold no finite number, and are left out"


def test_rows_without_a_label_are_left_out_and_said(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", numbered(["s"] * 3 + [""] * 4 + ["w"] * 3))
    assert firsts(TABLES, tmp_path) == [(0, "s", "a.csv"), (7, "w", "a.csv")]
    assert problem(TABLES, tmp_path) == "a.csv: 4 of 10 rows have no label and are left out"


def test_without_pyarrow_other_tables_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "a.csv", [(1, 2, "sit")] * 3)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    for name in ("pyarrow", "pyarrow.parquet", "pyarrow.types"):
        monkeypatch.setitem(sys.modules, name, None)
    recorded = read(TABLES, tmp_path)
    assert len(recorded) == 1
    assert len(recorded.problems) == 1
    assert recorded.problems[0].startswith("b.parquet: pyarrow.parquet cannot be imported")
    assert recorded.problems[0].endswith("pip install 'fedprune[tables]'")


def test_parquet_is_the_same_table(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = {"ax": [0, 1, 2, 3, 4, None], "ay": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5], "label": [2.0, 2.0, 2.0, 7.0, 7.0, 7.0]}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({**table, "ay": list("abcdef")}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and no more")
    recorded = read(TABLES, tmp_path)
    assert recorded.inputs.tolist() == [[[0, 1, 2], [0.5, 1.5, 2.5]]]
    assert recorded.labels == ("2",)
    assert recorded.problems[:2] == (
        "a.parquet: column ax: 1 of 2 windows hold no finite number, and are left out",
        "b.parquet: column ay holds string, expected numbers",
    )
    assert recorded.problems[2].startswith("c.parquet: no table (")
    keys = {"label": "folder", "recording": "take"}
    strings = pyarrow.table(
        {"ax": [1.0] * 3, "ay": [2] * 3, "take": pyarrow.array(["x", "x", "x"]).dictionary_encode()}
    )
    (tmp_path / "walk").mkdir()
    parquet.write_table(strings, tmp_path / "walk" / "d.parquet")
    assert firsts(settings(**keys), tmp_path) == [(1, "walk", "x")]


def test_signals_have_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.tables\.signals: missing"):
        read(Data("tables", "own"), tmp_path)


KEYS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12")), max_size=40)


@given(KEYS, st.integers(1, 6), st.integers(0, 7))
def test_no_window_spans_two_runs_and_none_is_forgotten(keys: list[tuple[str, str]], window: int, step: int) -> None:
    columns = [[key[at] for key in keys] for at in range(2)]
    runs = list(runs_of(columns))
    assert [row for run in runs for row in range(run.first, run.end)] == list(range(len(keys)))
    assert all(len(set(keys[run.first : run.end])) == 1 for run in runs)
    assert all(keys[one.first] != keys[other.first] for one, other in itertools.pairwise(runs))
    for run in runs:
        starts = list(starts_of(run, window, step))
        assert all(run.first <= start and start + window <= run.end for start in starts)
        # the first row begins one, and behind the last is no room for another
        assert bool(starts) == (run.end - run.first >= window)
        assert not starts or (starts[0] == run.first and starts[-1] + (step or window) + window > run.end)


def test_runs_of_no_rows_and_of_one() -> None:
    assert list(runs_of([[], []])) == []
    assert list(runs_of([["a"]])) == [Run(0, 1)]
