"""What a user can mend: exit code 2, one line that names the file, the key and what would be right, nothing written."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from fedprune.cli.main import app

CASES = {
    "unknown key": (["--set", "training.epoch=2"], r"training\.epoch: unknown key; did you mean epochs\?"),
    "unknown table": (["--set", "trainin.epochs=2"], r"trainin: unknown key; did you mean training\?"),
    "wrong type": (["--set", 'rounds="many"'], r"rounds: expected a whole number, got a text"),
    "fraction of a round": (["--set", "rounds=1.5"], r"rounds: expected a whole number"),
    "less than no round": (["--set", "rounds=-1"], r"rounds: expected a whole number >= 0"),
    "density above 1": (["--set", "method.density=1.4"], r"density 1\.4 is outside \(0, 1\]"),
    "density of a text": (["--set", "method.density=high"], r"method\.density: expected a number, got 'high'"),
    "density 0": (["--set", "method.density=0.0"], r"density 0\.0 is outside"),
    "alpha 0": (["--set", "data.alpha=0"], r"data\.alpha: expected a number > 0"),
    "infinite rate": (["--set", "training.learning_rate=inf"], r"training\.learning_rate: expected a number <="),
    "seed beyond torch's": (["--set", f"seed={2**64}"], r"seed: expected a whole number <= 9223372036854775807"),
    "seed beyond torch's, as an option": (["--seed", str(2**64)], r"seed: expected a whole number <="),
    "no such partition": (
        ["--set", "data.partition=random"],
        r"data\.partition: 'random' is not one of iid, dirichlet",
    ),
    "unknown data": (["--set", "data.name=mnist"], r"data: .*'mnist': choose one of digits, shapes, cifar10"),
    "own data that is not there": (["--set", "data.name=nowhere:load"], r"data: nowhere:load: .*PYTHONPATH"),
    "own data that is none": (["--set", "data.name=own_world:no_data"], r"data: own_world:no_data returned a int"),
    "data without people": (
        ["--set", "data.partition=natural", "--set", "data.devices=0"],
        r"data: own does not say whose its examples are",
    ),
    "too many devices": (["--set", "data.devices=500"], r"data: .*devices"),
    "unknown model": (["--set", "model=resnet1"], r"model: resnet1: no such model; known are .*resnet18"),
    "own model that is not there": (["--set", "model=own_world:nothing"], r"model: own_world:nothing: .*no function"),
    "own model with a wrong forward": (
        ["--set", "model=own_world:wrong_forward"],
        r"model: own_world:wrong_forward: forward of a batch shaped \(2, 1, 6, 6\) failed",
    ),
    "own model with wrong logits": (
        ["--set", "model=own_world:wrong_classes"],
        r"model: own_world:wrong_classes: logits have shape \(2, 4\), expected \(2, 3\)",
    ),
    "unknown method": (
        ["--set", "method.name=fedtine"],
        r"method\.name: 'fedtine' is not one of .*fedtiny, ",
    ),
    "unknown parameter": (["--set", "method.densiti=0.1"], r"method\.densiti: unknown key; fedtiny takes .*density"),
    "wrong parameter": (["--set", "method.noise=pink"], r"method: noise 'pink' is not one of uniform, erk"),
    "no public examples": (["--set", "data.public=0"], r"data\.public: .*set it above 0"),
    "no test examples": (["--set", "data.test=0"], r"data\.test: .*set it above 0"),
    "nothing to choose by": (["--set", "data.development=0"], r"data\.development: fedtiny chooses .*set it above 0"),
}


def assert_refused(ended: tuple[int, str, str], file: str, reason: str) -> None:
    """Exit code 2, and exactly one line on standard error."""
    code, out, err = ended
    assert code == 2, (out, err)
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert err.startswith(f"{file}: "), err
    assert re.search(reason, err), err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("case", CASES)
def test_an_experiment_that_cannot_be_run(
    fedprune: Callable[..., tuple[int, str, str]], world: Path, tmp_path: Path, case: str
) -> None:
    changes, reason = CASES[case]
    file = str(world / "tiny.toml")
    assert_refused(fedprune("simulate", file, *changes), file, reason)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        ("rounds = \n", "not valid TOML: .*line 1"),
        ("\xff", "not valid TOML"),
        ("rounds = 3\n", "missing; it has no default"),
        ('method = "fedavg"\n[data]\nname = "d"\n', "method: expected a table, got a text"),
        ('[method]\ndensity = 1\n[data]\nname = "d"\ndevices = 2\n', "method.name: missing"),
        ('name = "a/b"\n[method]\nname = "fedavg"\n[data]\nname = "d"\ndevices = 2\n', "name: 'a/b' names a folder"),
        ('[method]\nname = "fedavg"\n[data]\nname = "d"\n', "data.devices: missing"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_experiment(
    fedprune: Callable[..., tuple[int, str, str]], tmp_path: Path, text: str | None, reason: str
) -> None:
    file = tmp_path / "odd [b]name.toml"  # brackets must not be read as markup
    if text is not None:
        whole = "method" in text
        file.write_bytes((('model = "x"\nrounds = 3\n' if whole else "") + text).encode("latin-1"))
    before = sorted(tmp_path.iterdir())
    assert_refused(fedprune("simulate", str(file)), str(file), reason)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_is_no_experiment(fedprune: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert_refused(fedprune("simulate", str(tmp_path)), str(tmp_path), "cannot be read")


def test_a_method_that_cannot_draw_its_masks(
    fedprune: Callable[..., tuple[int, str, str]], world: Path, tmp_path: Path
) -> None:
    """Refused before anything is trained, let alone written."""
    file = str(world / "tiny.toml")
    before = sorted(tmp_path.iterdir())
    ended = fedprune("simulate", file, "--set", "method.density=0.00001", "--workers", "1")
    assert sorted(tmp_path.iterdir()) == before
    assert_refused(ended, file, "method: no candidate of density")


@pytest.mark.parametrize("override", ["rounds", "=3", "rounds.x=3", "model.x=1"])
def test_an_override_that_is_none(
    fedprune: Callable[..., tuple[int, str, str]], world: Path, tmp_path: Path, override: str
) -> None:
    code, _, err = fedprune("simulate", str(world / "tiny.toml"), "--set", override)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith(f"--set {override}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10", "ucihar", "keywords", "plays"])
def test_data_that_is_not_there(
    fedprune: Callable[..., tuple[int, str, str]], world: Path, tmp_path: Path, name: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = str(world / "tiny.toml")
    ended = fedprune("simulate", file, "--set", f"data.name={name}", "--data-dir", str(empty))
    assert_refused(ended, file, rf"data: {name}: .*{re.escape(str(empty))}")
    assert list(tmp_path.iterdir()) == [empty]
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("command", [["export", "--to", "litert"], ["report"]])
def test_a_folder_that_is_no_run(
    fedprune: Callable[..., tuple[int, str, str]], tmp_path: Path, command: list[str]
) -> None:
    for folder in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert_refused(fedprune(*command, folder), folder, "not a run's folder")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("command", [["export", "--to", "litert"], ["report"]])
def test_a_run_without_a_result_and_one_that_is_damaged(
    fedprune: Callable[..., tuple[int, str, str]], finished: Path, tmp_path: Path, command: list[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.fedprune").write_bytes(b"\x01garbage")
    assert_refused(fedprune(*command, "run"), "run/checkpoint.fedprune", "damaged")
    (tmp_path / "run" / "result.json").unlink()
    assert_refused(fedprune(*command, "run"), "run", "no result yet; go on with: fedprune resume")


def test_another_experiment_and_a_damaged_checkpoint_are_not_resumed(
    fedprune: Callable[..., tuple[int, str, str]], world: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    words = ("simulate", str(world / "tiny.toml"), "--out", "run", "--resume")
    assert_refused(fedprune(*words, "--set", "rounds=3"), "run", "another experiment; .*--out")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for name in ("checkpoint.fedprune", "checkpoint.before.fedprune"):
        (tmp_path / "run" / name).write_bytes(b"")
    assert_refused(fedprune(*words), "run/checkpoint.fedprune", "damaged .*--fresh")


def test_an_unfinished_run_is_not_overwritten(
    fedprune: Callable[..., tuple[int, str, str]], world: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    before = (tmp_path / "run" / "checkpoint.fedprune").read_bytes()
    ended = fedprune("simulate", str(world / "tiny.toml"), "--out", "run")
    assert_refused(ended, "run", "unfinished run; add --resume .* or --fresh")
    assert (tmp_path / "run" / "checkpoint.fedprune").read_bytes() == before


def test_a_real_process_says_the_same(process: Callable[..., tuple[int, str, str]], world: Path) -> None:
    before = sorted(world.iterdir())
    assert_refused(process("simulate", "tiny.toml", "--set", "rounds=-1"), "tiny.toml", "rounds: expected")
    assert sorted(world.iterdir()) == before


OPTIONS = {
    "simulate": ["FILE", "--set", "--seed", "--out", "--engine", "--data-dir", "--workers", "--resume", "--fresh"],
    "train": ["FILE", "--set", "--seed", "--out", "--data-dir", "--resume", "--fresh"],
    "methods": ["NAME", "--json"],
    "export": ["RUN", "--to", "--data-dir", "litert", "microcontroller"],
    "report": ["RUN"],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(fedprune: Callable[..., tuple[int, str, str]], command: str) -> None:
    code, out, _ = fedprune(command, "--help")
    assert code == 0
    for option in OPTIONS[command]:
        assert option in out, option
    for each in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        assert each.opts[0].lower() in out.lower(), each.name


def test_help_names_every_command(fedprune: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = fedprune("--help")
    assert code == 0
    assert all(command in out for command in OPTIONS)
