"""Pages say what is so: their commands run, their files work, their settings load, their links lead somewhere.

Every command of a page is parsed: subcommand, options and choices exist, and an experiment that it names loads with
what ``--set`` says. A command in a block is run as well, in the page's order and in a folder of its own that holds the
files which the page shows, the repository's experiments, a finished run, a .tflite and a device's join file, unless it

- serves until Ctrl-C, or wants devices that answer;
- wants data, a method, an emulator or a package that is not here;
- takes minutes: Ray, the demo, the test suite, benchmarks.

An experiment that is run has one round and one epoch: that it runs is tested here, what comes of it elsewhere. A
command inside a sentence, which may leave arguments out, is parsed alone.
"""

import ast
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from page_commands import imports_exist, not_run, parse, project, run
from page_text import PAGES, ROOT, Command, anchors, blocks, commands, links

from fedprune import experiment as _experiment
from fedprune.experiment import Experiment
from fedprune.runs.compare.asked import Comparison

_EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
_WRONG = (click.UsageError, SystemExit, AssertionError, ImportError, ValueError)
_RUN_ALREADY: set[tuple[str, ...]] = set()
_ONCE = (
    "simulate",
    "train",
    "methods",
    "plan",
    "profile",
    "export",
    "bench",
    "resume",
    "report",
)  # however many pages show one


def test_commands_of_a_page_are_found_with_their_words() -> None:
    page = (
        "Run `fedprune plan\nFILE`:\n\n"
        "    A=1 fedprune simulate a.toml \\\n        --set 'b=\"c d\"'   # why\n    fedpruned\n\n"
        "```sh\nmake run\n```\n```python\nmake = 1\n```\n"
    )
    said = [("fedprune", "simulate", "a.toml", "--set", 'b="c d"'), ("make", "run"), ("fedprune", "plan", "FILE")]
    assert commands(page) == [Command(said[0], True), Command(said[1], True), Command(said[2], False)]
    assert sum(command.whole for path in PAGES for command in commands(path.read_text())) > 60


@_EVERY_PAGE
def test_every_command_of_a_page_parses(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _lay_out(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    for command in commands(page.read_text()):
        try:
            parse(command)
        except _WRONG as error:
            pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "fedprune simulated simulations/digits.toml",
        "fedprune simulate",
        "fedprune simulate simulations/digits.toml --sed 1",
        "fedprune simulate simulations/digits.toml --set rounds=-1",
        "fedprune simulate simulations/nobody.toml",
        "fedprune export runs/digits --to paper",
        "fedprune server enrol FLEET",
        "python -m simulations.benchmarks.wire --slow",
        "python -m simulations.benchmarks.nothing",
        "python _nothing.py",
        "python -c 'import fedprune.nothing'",
        "make nothing",
        'flwr run . --run-config \'experiment="simulations/digits.toml" sets=""\'',
    ],
)
def test_a_command_that_is_none_does_not_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(_WRONG):
        parse(Command(tuple(shlex.split(line)), True))


@_EVERY_PAGE
def test_commands_that_a_page_shows_run(
    page: Path, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _lay_out(page, tmp_path)
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FEDPRUNE_DATA_DIR", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for command in commands(page.read_text()):
        if not command.whole or not_run(command.words) or command.words in _RUN_ALREADY:
            continue
        if command.words[1] in _ONCE:
            _RUN_ALREADY.add(command.words)
        code = run(command.words)
        assert code == 0, f"{command}: exit code {code}\n{''.join(capfd.readouterr())[-2000:]}"


@_EVERY_PAGE
def test_python_and_toml_of_a_page_load(page: Path) -> None:
    shown = blocks(page.read_text())
    for block in shown:
        if block.language == "python":
            imports_exist(ast.parse(block.text), {Path(block.file).stem for block in shown})
        elif block.language == "toml":
            table = tomllib.loads(block.text)
            if "experiments" in table:
                msgspec.convert(table, Comparison)
                continue
            _experiment.parse(_over_a_plain_one(table), str(page))
        elif not block.language:
            assert not re.match(r"\s*(from |import |def |\[\w+\]$)", block.text), f"say its language:\n{block.text}"


@_EVERY_PAGE
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in links(page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{link} is not there"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{link}: {target} has no such heading"


@_EVERY_PAGE
def test_settings_and_extras_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    sections = {field.name: field.type for field in msgspec.structs.fields(Experiment)}
    for section, key in re.findall(r"`(data|training|pretraining|export|privacy)\.([a-z_]+)\b", text):
        assert key in sections[section].__struct_fields__, f"{section}.{key}"
    for extra in re.findall(r"fedprune\[([a-z,]+)\]", text):
        assert set(extra.split(",")) <= set(project()["project"]["optional-dependencies"]), extra


def test_a_net_and_a_loader_of_ones_own_take_less_than_twenty_lines() -> None:
    shown = blocks((ROOT / "docs" / "own_model_and_data.md").read_text())
    first = next(block for block in shown if block.language == "python")
    assert len(first.text.splitlines()) < 20
    named = {f"{Path(first.file).stem}:{each.name}" for each in ast.parse(first.text).body if hasattr(each, "name")}
    experiment = tomllib.loads(next(block for block in shown if block.language == "toml").text)
    assert {experiment["model"], experiment["data"]["name"]} == named


def test_the_readme_is_a_tour_with_a_true_map() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    made = [str(command) for command in commands(text) if command.words[0] == "make"]
    assert made == ["make demo", "make fleet-demo", "make test"]
    # what the second runs, tests run as well
    assert {*made} - {"make fleet-demo"} < set((ROOT / ".ci" / "run").read_text().splitlines())
    (drawn,) = [block.text for block in blocks(text) if block.text.startswith("fedprune/ ")]
    library = ROOT / "fedprune"
    rooms = [f"{path.name}/" for path in library.iterdir() if (path / "__init__.py").exists()]
    files = [path.name for path in library.glob("*.py") if path.name != "__init__.py"]
    assert [name for name in rooms + files if name not in drawn.split()] == []


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages take for given: runs/digits, finished; the same as runs/NAME; files of models; kitchen.join."""
    folder = tmp_path_factory.mktemp("ready")
    finished = folder / "runs" / "digits"
    file = ROOT / "simulations" / "digits.toml"
    assert run(("fedprune", "simulate", str(file), "--out", str(finished))) == 0
    shutil.copytree(finished, folder / "runs" / "NAME")
    shutil.copy(finished / "model.tflite", folder)
    shutil.copy(finished / "model.tflite", folder / "theirs.tflite")
    shutil.copy(finished / "model_float.tflite", folder / "float.tflite")
    np.savez(folder / "examples.npz", np.random.default_rng(0).random((100, 8, 8, 1), np.float32))
    fleet = str(tmp_path_factory.mktemp("elsewhere") / "fleet")
    assert run(("fedprune", "server", "init", fleet, "--host", "localhost")) == 0
    assert run(("fedprune", "server", "enrol", fleet, "kitchen")) == 0
    shutil.copy(Path(fleet) / "devices" / "kitchen.join", folder)
    return folder


def _lay_out(page: Path, folder: Path) -> None:
    """The repository's experiments and makefiles, and the files that a page shows."""
    shutil.copytree(
        ROOT / "simulations", folder / "simulations", ignore=lambda _, names: {*names} - {"compare"} - _tomls(names)
    )
    makefile = Path("clients", "microcontroller", "Makefile")
    (folder / makefile).parent.mkdir(parents=True)
    shutil.copy(ROOT / makefile, folder / makefile)
    for name in ("home", "DIR", "home/data"):
        (folder / name).mkdir()
    for block in blocks(page.read_text()):
        if not block.file:
            continue
        (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.file).write_text(block.text)
        if block.file.endswith(".toml") and "/" not in block.file:  # a page may say where it belongs in the repository
            shutil.copy(folder / block.file, folder / "simulations")


def _tomls(names: list[str]) -> set[str]:
    return {name for name in names if name.endswith(".toml")}


def _over_a_plain_one(table: dict[str, Any]) -> dict[str, Any]:
    """An experiment, or some sections of one in one that asks for nothing besides."""
    data = {"name": "digits"} | ({} if "fleet" in table else {"devices": 4})
    plain = {"name": "plain", "model": "digits_cnn", "rounds": 4, "method": {"name": "magnitude", "density": 0.1}}
    return {**plain, "data": data, **table}
