"""`fedprune data`: what is in a folder, and one folder a person."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LIKE = """
model = "digits_cnn"
rounds = 1
[data]
name = "tables"
partition = "own"
devices = 1
classes = ["sit", "run"]
tables = { signals = ["ax", "ay"], label = "activity", person = "who", window = 4 }
[method]
name = "fedavg"
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write(path: Path, rows: int, header: str = "ax,ay,activity,who") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    said = [
        f"{row},{row / 2},{'sit' if row < rows // 2 else 'walk'},{'ann' if row % 24 < 12 else 'bob'}"
        for row in range(rows)
    ]
    path.write_text("\n".join([header, *said]) + "\n")


def test_check_guesses_counts_and_says_what_would_read_it(fedprune: Callable, tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.csv", 1024)
    (tmp_path / "data" / "b.csv").write_text("ax,ay,activity,who\n1,2\n")
    ended = fedprune("data", "check", "data", "--set", "data.tables.person=")
    assert (ended.code, ended.err) == (0, "")
    first, second, *_ = ended.out.splitlines()
    assert first == "data: tables, in parts as the device data has them"
    assert second.split() == ["train", "development", "test"]
    words = ended.out.split()
    at = words.index("sit")
    assert sum(map(int, words[at + 1 : at + 4])) == 4
    assert "8 examples of shape 2x128, float32, of 1 recordings" in ended.out
    assert "  b.csv: row 1 has 2 cells, the header 4" in ended.out
    assert (
        'model = "har_cnn"\nrounds = 20\n\n[data]\nname = "tables"\npartition = "own"\n'
        'tables = { signals = ["ax", "ay"], label = "activity", recording = "file", window = 128 }\n\n[training]\n'
    ) in ended.out


def test_what_check_prints_is_an_experiment(fedprune: Callable, tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.csv", 1024)
    shown = fedprune("data", "check", "data", "--set", "data.tables.window=4").out
    (tmp_path / "like.toml").write_text(shown[shown.index("model = ") :])
    ended = fedprune("data", "check", "data", "--like", "like.toml")
    assert (ended.code, ended.err) == (0, "")
    assert "of 1 recordings" in ended.out
    assert "[data]" not in ended.out


def test_check_guesses_by_the_first_table_with_numbers(fedprune: Callable, tmp_path: Path) -> None:
    write(tmp_path / "data" / "c.csv", 1024)
    (tmp_path / "data" / "a.csv").write_text("ax,ay,activity,who\n")
    (tmp_path / "data" / "b.csv").write_text('ax,ay,activity,who\n"1,5","2,5",sit,ann\n')
    ended = fedprune("data", "check", "data", "--set", "data.tables.window=4")
    assert ended.code == 0
    assert 'signals = ["ax", "ay"], label = "activity"' in ended.out


def test_check_of_the_folder_of_all_devices_says_so(fedprune: Callable, tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        for label in ("0", "1"):
            (tmp_path / "people" / name / label).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "people" / name / label / "a.png")
    ended = fedprune("data", "check", "people")
    assert "ann, bob look like one folder a device, not labels: give the folder in one of them" in ended.out
    assert "look like one folder" not in fedprune("data", "check", "people/ann").out


def test_check_says_which_labels_an_experiment_does_not_know(fedprune: Callable, tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.csv", 24)
    (tmp_path / "like.toml").write_text(LIKE)
    ended = fedprune("data", "check", "data", "--like", "like.toml")
    assert ended.code == 0
    assert "walk (no class)" in ended.out
    assert "label 'walk' is no class of the experiment: 3 examples stay out; classes are sit, run" in ended.out
    assert "no example of run" in ended.out


def test_check_of_nothing_that_can_be_used_ends_in_2_and_shows_twenty_lines(fedprune: Callable, tmp_path: Path) -> None:
    for index in range(30):
        write(tmp_path / "data" / f"{index}.csv", 3)
    words = ["data", "check", "data", "--set", "data.tables.window=50"]
    ended = fedprune(*words)
    assert ended.code == 2
    assert ended.out.count(".csv: at most") == 20
    assert "and 11 more; --all shows them" in ended.out
    assert fedprune(*words, "--all").out.count(".csv: at most") == 30


REFUSALS = {
    "no folder": (["check", "nowhere"], "nowhere: cannot be read (No such file or directory); give the folder"),
    "nothing": (["check", "empty"], "empty: nothing that is read; expected one of sounds: a folder a label"),
    "no label": (["check", "bare"], 'it has ax, ay; name it with --set "data.tables.label=COLUMN"'),
    "a key of another table": (["check", "data", "--set", "rounds=3"], "--set rounds=3: expected data.key=value"),
    "an unknown key": (
        ["check", "data", "--set", "data.tables.windw=3"],
        "data.tables.windw: unknown key; did you mean",
    ),
    "a wrong value": (
        ["check", "data", "--set", "data.tables.window=many"],
        "data.tables.window: expected a whole number",
    ),
    "another partition": (
        ["check", "data", "--like", "iid.toml"],
        """iid.toml: data.partition: 'iid'; expected "own\"""",
    ),
    "by nothing": (["split", "data", "--out", "out"], "--by: missing; give a column, or person"),
    "by a column that is not there": (
        ["split", "data", "--by", "age", "--out", "out"],
        "a.csv: no column age; it has ax",
    ),
    "no such set": (
        ["split", "mnist", "--out", "out"],
        "mnist: no such folder, and no set; sets are digits, shapes, cifar10, keywords, plays, ucihar",
    ),
    "a set by a column": (
        ["split", "digits", "--by", "age", "--out", "out"],
        "digits: give --by person, or --devices N",
    ),
    "a set without people": (["split", "digits", "--by", "person", "--out", "out"], "digits does not say whose"),
    "a full folder": (["split", "data", "--by", "who", "--out", "data"], "--out data: is not empty; give a new folder"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_user_can_mend_is_one_line(fedprune: Callable, tmp_path: Path, name: str) -> None:
    if "set " in name:
        pytest.importorskip("sklearn")
    write(tmp_path / "data" / "a.csv", 24)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.csv").write_text("ax,ay\n1,2\n")
    digits = LIKE.replace('"own"', '"iid"').replace('"tables"', '"digits"').split("classes")[0]
    (tmp_path / "iid.toml").write_text(f'{digits}[method]\nname = "fedavg"\n')
    words, said = REFUSALS[name]
    ended = fedprune("data", *words)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_split_of_tables_by_person_reads_like_its_experiment(fedprune: Callable, tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.csv", 96)
    (tmp_path / "like.toml").write_text(LIKE)
    ended = fedprune("data", "split", "data", "--by", "person", "--like", "like.toml", "--out", "people")
    assert (ended.code, ended.err) == (0, "")
    assert "2 folders in people, 96 rows in all" in ended.out
    assert sorted(path.as_posix() for path in Path("people").rglob("*.csv")) == ["people/ann/a.csv", "people/bob/a.csv"]
    checked = fedprune("data", "check", "people/bob", "--like", "like.toml")
    assert "12 examples of shape 2x4" in checked.out
    # a column that is called as people are is found without an experiment
    assert fedprune("data", "split", "data", "--by", "person", "--out", "again").code == 0
    assert len(list(Path("again").iterdir())) == 2


def test_split_of_a_set_over_devices(fedprune: Callable, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    words = ["data", "split", "digits", "--devices", "12", "--partition", "dirichlet", "--alpha", "0.3"]
    assert fedprune(*words, "--out", "one").code == 0
    assert fedprune(*words, "--out", "same").code == 0
    assert fedprune(*words, "--out", "other", "--seed", "1").code == 0
    folders = [sorted(Path(name).rglob("*.npz")) for name in ("one", "same", "other")]
    assert [path.parent.name for path in folders[0]] == [f"{index:02}" for index in range(12)]
    held = [[np.load(path)["labels"].tolist() for path in each] for each in folders]
    assert sum(map(len, held[0])) == 1797
    assert held[0] == held[1] != held[2]
    ended = fedprune("data", "check", "one/00")
    assert ended.code == 0
    assert f"{len(held[0][0])} examples of shape 1x8x8, uint8" in ended.out
