"""One folder a person out of tables and of sets, and what a folder is guessed to be."""

from pathlib import Path

import numpy as np
import pytest
from own_folders import ARRAYS, settings_of_tables, write_arrays, write_picture, write_table, write_wav

from fedprune.data import DataError, Dataset, Examples
from fedprune.data.own import read
from fedprune.data.own.guessing import guess
from fedprune.data.own.splitting import as_arrays, as_pictures, namer, numbered, people, recordings, set_by, tables_by


def by_who(names: list[str]) -> str:
    return "who"


def walked(rows: list[tuple[object, ...]], folder: Path, sign: str = ",") -> None:
    write_table(folder / "walk" / "a.csv", rows, sign.join(["ax", "who", "note"]), sign)


def test_each_persons_rows_are_a_folder_with_the_same_names(tmp_path: Path) -> None:
    walked([(1, "ann", "x"), (2, "ann", '"a;b"'), (3, "bob", "")], tmp_path / "in", ";")
    write_table(tmp_path / "in" / "b.csv", [("cleo", 1.5)], "who,ax")
    done = tables_by(tmp_path / "in", by_who, tmp_path / "out")
    assert done.sizes == {"ann": 2, "bob": 1, "cleo": 1}
    assert done.problems == ()
    written = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_text() for path in tmp_path.rglob("out/**/*.csv")
    }
    assert {name: text.splitlines() for name, text in written.items()} == {
        "ann/walk/a.csv": ["ax,who,note", "1,ann,x", "2,ann,a;b"],
        "bob/walk/a.csv": ["ax,who,note", "3,bob,"],
        "cleo/b.csv": ["who,ax", "cleo,1.5"],
    }


def test_what_is_split_reads_as_before(tmp_path: Path) -> None:
    rows = [(row, "ann" if row < 7 else "bob", "s" if row % 7 < 3 else "w") for row in range(14)]
    write_table(tmp_path / "in" / "a.csv", rows, "ax,who,label")
    settings = settings_of_tables(signals=("ax",), person="who")
    tables_by(tmp_path / "in", by_who, tmp_path / "out")
    whole = read(settings, tmp_path / "in")
    parts = [read(settings, tmp_path / "out" / name) for name in ("ann", "bob")]
    assert len(whole) == 4
    assert np.array_equal(np.concatenate([part.inputs for part in parts]), whole.inputs)
    assert parts[0].labels + parts[1].labels == whole.labels


def test_rows_that_lie_apart_rows_of_nobody_and_files_without_the_column_are_said(tmp_path: Path) -> None:
    write_table(tmp_path / "in" / "a.csv", [(1, "ann"), (2, "bob"), (3, "ann")], "ax,who")
    write_table(tmp_path / "in" / "b.csv", [(1, "ann"), (2, "")], "ax,who")
    write_table(tmp_path / "in" / "c.csv", [(1,)], "ax")
    write_table(tmp_path / "in" / "d.csv", [(1, "ann"), (1,)], "ax,who")
    done = tables_by(tmp_path / "in", by_who, tmp_path / "out")
    assert done.sizes == {"ann": 3, "bob": 1}
    assert [problem.split(";")[0] for problem in done.problems] == [
        "a.csv: rows of one who lie apart, and now follow each other",
        "b.csv: 1 rows have no who and are left out",
        "c.csv: no column who",
        "d.csv: row 2 has 1 cells, the header 2",
    ]


def test_parquet_becomes_text(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "in").mkdir()
    parquet.write_table(pyarrow.table({"ax": [0.1, None], "who": [3, 3]}), tmp_path / "in" / "a.parquet")
    parquet.write_table(pyarrow.table({"ax": [[0.1]], "who": [3]}), tmp_path / "in" / "b.parquet")
    done = tables_by(tmp_path / "in", by_who, tmp_path / "out")
    assert (tmp_path / "out" / "3" / "a.csv").read_text().split() == ["ax,who", "0.1,3", ",3"]
    assert done.problems == ("b.parquet: column ax holds lists, which no cell can",)


def test_an_out_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    walked([(1, "ann", "x")], tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(DataError, match="out: is not empty; give a new folder"):
        tables_by(tmp_path / "in", by_who, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(DataError, match=r"walk/a\.csv: no column age; it has ax, who, note"):
        tables_by(tmp_path / "in", lambda names: "age", tmp_path / "new")


def test_names_are_safe_and_different() -> None:
    name = namer()
    given = ["ann", "Ann", "../../etc", "a/b", "a b", ".hidden", "", "é", "ann", "x" * 300, "..."]
    found = [name(each) for each in given]
    assert found[:9] == ["ann", "Ann-2", "etc", "a_b", "a_b-2", "hidden", "_", "é", "ann"]
    assert found[-1] == "_-2"
    assert all("/" not in each and not each.startswith(".") and 0 < len(each) <= 102 for each in found)


ONE = np.ones((1, 1, 1), np.float32)


def examples(labels: list[int], people: list[int] | None, first: int = 0) -> Examples:
    inputs = np.arange(first, first + len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3), np.uint8)
    return Examples(inputs, np.array(labels), None if people is None else np.array(people))


def made_up(overlap: int = 0, whose: bool = True) -> Dataset:
    train = examples([0, 0, 1, 1, 0], [2, 2, 2, 10, 10] if whose else None)
    test = examples([1, 0], [2, 7] if whose else None, first=5)
    return Dataset("made-up", train, test, ("no", "yes"), (1, 2, 3), ONE, ONE, scale=1 / 16, overlap=overlap)


def test_a_set_as_one_folder_a_person(tmp_path: Path) -> None:
    dataset = made_up()
    done = set_by(dataset, people(dataset), tmp_path / "out", as_arrays)
    assert done.sizes == {"02": 4, "07": 1, "10": 2}
    recorded = read(ARRAYS, tmp_path / "out" / "02")
    assert recorded.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 5]
    assert recorded.inputs.dtype == np.uint8
    assert recorded.labels == ("no", "no", "yes", "yes")
    assert recorded.recordings == ("train#0", "train#1", "train#2", "test#0")
    with pytest.raises(DataError, match="made-up does not say whose its examples are: give --devices"):
        people(made_up(whose=False))


def test_windows_that_overlap_are_one_recording() -> None:
    assert recordings(made_up(overlap=1)).tolist() == [
        "train#0", "train#0", "train#1", "train#2", "train#3", "test#0", "test#1",
    ]  # fmt: skip
    assert len(set(recordings(made_up()))) == 7


def test_a_set_as_pictures(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    dataset = made_up(whose=False)
    groups = numbered([np.array([6, 2]), np.array([0, 1, 3, 4, 5])])
    set_by(dataset, groups, tmp_path / "out", as_pictures)
    assert sorted(path.as_posix() for path in (tmp_path / "out" / "0").rglob("*.png")) == [
        f"{tmp_path}/out/0/no/000006.png", f"{tmp_path}/out/0/yes/000002.png"
    ]  # fmt: skip
    found = guess(tmp_path / "out" / "0")
    assert found.pictures is not None
    assert (found.pictures.size, found.pictures.channels) == ((2, 3), 1)
    # of at most 16: 6 / 16 · 255 = 95.6, 2 / 16 · 255 = 31.9
    assert read(found, tmp_path / "out" / "0").inputs[:, 0, 0, 0].tolist() == [96, 32]


def test_guesses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing that is read; expected one of sounds: a folder a label with \.wav"):
        guess(tmp_path)
    write_wav(tmp_path / "s" / "hello" / "a.WAV", np.arange(10), rate=8000)
    (tmp_path / "s" / "readme.txt").write_text("")
    sounds = guess(tmp_path / "s").sounds
    assert sounds is not None
    assert sounds.rate == 8000
    write_arrays(tmp_path / "n" / "a.npz", inputs=np.ones((1, 1)), labels=[0])
    assert guess(tmp_path / "n") == ARRAYS
    pytest.importorskip("PIL.Image")
    write_picture(tmp_path / "p" / "cat" / "a.png", np.zeros((500, 400, 3), np.uint8))
    write_picture(tmp_path / "p" / "cat" / "b.png", np.zeros((40, 30), np.uint8))
    pictures = guess(tmp_path / "p").pictures
    assert pictures is not None
    assert (pictures.size, pictures.channels) == ((32, 32), 3)


def test_guesses_of_tables(tmp_path: Path) -> None:
    header = "Timestamp;ax;note;Subject;Activity;gy;session"
    write_table(
        tmp_path / "a.csv", [("10:00", "1", "hm", 3, "sit", "", 1), ("10:01", "2", "", 3, "sit", "4", 1)], header, ";"
    )
    tables = guess(tmp_path).tables
    assert tables is not None
    assert (tables.signals, tables.label, tables.person, tables.recording) == (
        ("ax", "gy"), "Activity", "Subject", "session"
    )  # fmt: skip
    write_table(tmp_path / "a.csv", [(1, 2)], "ax,kind")
    with pytest.raises(DataError, match=r"it has ax, kind; name it with --set .data\.tables\.label=COLUMN"):
        guess(tmp_path)
    named = guess(tmp_path, "kind").tables
    assert named is not None
    assert (named.signals, named.label) == (("ax",), "kind")
    (tmp_path / "walk").mkdir()
    (tmp_path / "a.csv").rename(tmp_path / "walk" / "a.csv")
    foldered = guess(tmp_path).tables
    assert foldered is not None
    assert foldered.label == "folder"
