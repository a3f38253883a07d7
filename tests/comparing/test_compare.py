"""A comparison as a user runs it: cut short, gone on with, changed, with a method that fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import comparisons
import pytest

from fedprune.experiment import load, to_json
from fedprune.runs.compare import asked, cell, cells, result, store
from fedprune.runs.compare.running import FAILED, Ran, Where, run


def run_command(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fedprune.cli", *words]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


_ALONE = Where(1)


def go(file: Path, out: Path, where: Where = _ALONE, **options: Any) -> tuple[asked.Comparison, Ran, list[str]]:
    """The table, what it came to, and what was said of cells that were run."""
    said: list[str] = []
    table = asked.read(file, **options)
    return table, run(file, table, out, None, where, lambda text, done, total: said.append(text)), said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, asked.Comparison, Ran]:
    folder = tmp_path_factory.mktemp("compared")
    file = comparisons.write(folder, comparisons.COMPARISON.replace("[0.3, 0.1]", "[0.1]"))
    table, ran, said = go(file, folder / "out", Where(2))
    assert len(said) == 6
    return file, folder / "out", table, ran


def test_every_cell_is_there_with_its_costs(whole: tuple[Path, Path, asked.Comparison, Ran]) -> None:
    _, out, table, ran = whole
    assert list(ran.cells) == list(cells.cells(table))
    written = result.write(out, "table", table, ran)
    lines = {line.method: line for line in written.lines}
    assert set(lines) == {"rigl", "magnitude", "fedavg"}
    assert all(line.final.seeds == 2 and not line.failed for line in lines.values())
    rigl, dense = lines["rigl"], lines["fedavg"]
    assert rigl.kept.mean == pytest.approx(0.1, rel=0.02)
    for key in ("flops", "training_bytes", "link_bytes"):
        assert rigl.accounted[key] < dense.accounted[key]
    # growing takes room for some of the pruned weights' gradients
    assert rigl.accounted["training_bytes"] > lines["magnitude"].accounted["training_bytes"]
    assert rigl.measured["bytes_up"] < dense.measured["bytes_up"]
    for line in lines.values():
        assert 40e6 < line.measured["peak_bytes"] < 200e6  # no torch, no converter
        assert line.measured["train_seconds"] > 0
        assert line.measured["tflite_bytes"] > line.measured["gzip_bytes"] > 1000
    page = written.page.read_text()
    assert page.count("<svg") >= 6
    assert "Accounted" in page
    assert not re.search(r"(src|href)=.http", page)
    told = json.loads(written.table.read_text())
    assert told["against"] == "rigl"
    assert len(told["cells"]) == 6


def test_what_is_done_is_not_run_again(whole: tuple[Path, Path, asked.Comparison, Ran]) -> None:
    file, out, _, ran = whole
    table, again, said = go(file, out)
    assert not said
    assert again == ran
    assert [each.name() for each in cells.cells(asked.read(file, seeds=1, only=["magnitude"]))] == [
        "small-magnitude-0.1-seed0"
    ]
    # what is asked for otherwise is not done
    (file.parent / "small.toml").write_text(comparisons.EXPERIMENT.replace("batch = 16", "batch = 17"))
    try:
        known = store.Store(out / "cells.jsonl")
        asked_for = [cells.experiment(file, table, each) for each in cells.cells(table)]
        assert not any(known.found(cell.Work(to_json(each), "x", "x", None)) for each in asked_for)
    finally:
        (file.parent / "small.toml").write_text(comparisons.EXPERIMENT)


def test_pieces_of_a_table_are_kept_in_a_file_that_is_sent(
    whole: tuple[Path, Path, asked.Comparison, Ran], tmp_path: Path
) -> None:
    file, out, _, ran = whole
    first, *others = (out / "cells.jsonl").read_bytes().splitlines(keepends=True)
    sent = tmp_path / "sent.jsonl"
    # power went while one was written, and a file was joined that had begun so
    sent.write_bytes(first[:40] + b"".join(others) + first[: len(first) // 2])
    table, said = asked.read(file), list[str]()
    again = run(file, table, tmp_path / "out", None, Where(1), lambda text, done, total: said.append(text), sent)
    assert len(said) == 1
    assert {each: told["curve"] for each, told in again.cells.items()} == {
        each: told["curve"] for each, told in ran.cells.items()
    }
    lines = [line[line.rfind(b'{"cell"') :] for line in sent.read_bytes().splitlines() if line.endswith(b"}")]
    assert {json.loads(line)["cell"] for line in lines} == {each.name() for each in cells.cells(table)}


def test_a_file_of_something_else_is_not_added_to(tmp_path: Path) -> None:
    file = comparisons.write(tmp_path)
    before = file.read_bytes()
    done = run_command("compare", str(file), "--out", str(tmp_path / "out"), "--cells", str(file))
    assert done.returncode == 2
    assert f"{file}: no file of a comparison's cells" in done.stderr
    assert file.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_a_cell_that_was_cut_short_goes_on_to_the_same_bits(
    whole: tuple[Path, Path, asked.Comparison, Ran], tmp_path: Path
) -> None:
    file, _, table, ran = whole
    each = next(c for c in cells.cells(table) if c.method == "rigl" and c.seed == 1)
    work = cell.Work(to_json(cells.experiment(file, table, each)), str(tmp_path / "cut"), "x", None)
    cut: list[int] = []
    save = cell.RunFolder.save

    def dies(self: Any, state: Any) -> None:
        save(self, state)
        if state.round == 1 and not cut:
            cut.append(1)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell.RunFolder, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            cell.run(work)
    assert cut
    again = cell.run(work)
    assert {**again, "seconds": 0} == {**{key: ran.cells[each][key] for key in again}, "seconds": 0}
    assert again["curve"]


def test_a_cell_says_what_it_is_judged_by_where_that_is_not_accuracy(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "simulations/regression.toml"
    asked_for = load(file, ["rounds=1", "evaluate_every=1", 'method={name="magnitude", density=0.5}'])
    told = cell.run(cell.Work(to_json(asked_for), str(tmp_path / "cell"), str(file), None))
    assert told["metric"] == {"name": "mean absolute error", "unit": "", "higher": False}
    assert told["curve"][-1][1] > 1


def test_devices_with_their_own_folders_are_compared_on(tmp_path: Path) -> None:
    people, experiment = tmp_path / "people", Path(__file__).parents[2] / "simulations/own_digits.toml"
    split = ["--devices", "3", "--partition", "dirichlet", "--as", "pictures", "--out", str(people)]
    assert run_command("data", "split", "digits", *split).returncode == 0
    asked_for = load(experiment, ["rounds=3", "evaluate_every=1", 'method={name="magnitude", density=0.5}'])
    work = cell.Work(to_json(asked_for), str(tmp_path / "cell"), str(experiment), str(people), whole=True)
    told = cell.run(work)
    assert told["curve"][-1][1] > 0.8
    assert 40e6 < told["device"]["peak_bytes"] < 200e6


def test_a_fleets_cell_is_the_mean_of_its_tiers(tmp_path: Path) -> None:
    experiment = Path(__file__).parents[2] / "simulations/fleet_digits.toml"
    changes = ["rounds=1", "evaluate_every=1", "pretraining.epochs=2", 'method={name="random_erk", density=0.3}']
    work = cell.Work(to_json(load(experiment, changes)), str(tmp_path / "cell"), str(experiment), None, whole=True)
    told = cell.run(work)
    assert list(told["tiers"]) == ["phone", "pi", "zero", "mcu"]
    assert [round for round, _ in told["curve"]] == [0, 1]
    assert told["curve"][-1][1] == pytest.approx(sum(told["tiers"].values()) / 4, abs=1e-5)
    assert told["worst"] <= min(told["tiers"].values())
    assert 40e6 < told["device"]["peak_bytes"] < 200e6
    text = f'densities = [0.3]\nseeds = 1\n[experiments.fleet]\nfile = "{experiment}"\n[methods]\nrandom_erk = {{}}\n'
    (tmp_path / "table.toml").write_text(text)
    table = asked.read(tmp_path / "table.toml")
    written = result.write(tmp_path, "table", table, Ran({}, {next(cells.cells(table)): told}))
    assert json.loads(written.table.read_text())["lines"][0]["tiers"]["mcu"]["mean"] == told["tiers"]["mcu"]
    assert "of mcu" in written.page.read_text()


def test_a_cell_that_fails_keeps_no_other_from_running(
    whole: tuple[Path, Path, asked.Comparison, Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    head, methods = comparisons.COMPARISON.replace("[0.3, 0.1]", "[0.1]").split("[methods]")
    failing = '[methods]\nfails = { name = "comparisons:failing" }'
    file, out = comparisons.write(tmp_path, head + failing + methods), tmp_path / "out"
    (missing,) = [each for each in cells.cells(whole[2]) if each.name() == "small-magnitude-0.1-seed1"]
    kept = (whole[1] / "cells.jsonl").read_bytes().splitlines(keepends=True)
    out.mkdir()  # what comes after the one that fails is run; the others are there
    (out / "cells.jsonl").write_bytes(b"".join(line for line in kept if json.loads(line)["cell"] != missing.name()))
    done = run_command("compare", str(file), "--out", str(out), "--jobs", "1")
    assert done.returncode == 1
    assert "1 of 8 cells failed, such as small-fails-0.1-seed1" in done.stderr
    assert re.search(r"comparisons\.py, line \d+, in act: KeyError: 'not with this seed'", done.stderr)
    told = json.loads((out / "comparison.json").read_text())
    assert [name for name, each in told["cells"].items() if FAILED in each] == ["small-fails-0.1-seed1"]
    assert {line["method"] for line in told["lines"]} == {"fails", "rigl", "magnitude", "fedavg"}
    assert told["cells"][missing.name()]["curve"] == json.loads(json.dumps(whole[3].cells[missing]["curve"]))


def test_what_a_method_asks_for_and_does_not_get_is_told_with_its_table(tmp_path: Path) -> None:
    head = comparisons.COMPARISON.replace("[0.3, 0.1]", "[0.2, 0.1]").partition("[methods]")[0]
    file, out = comparisons.write(tmp_path, head.replace("rigl", "gmp") + "[methods]\ngmp = {}\n"), tmp_path / "out"
    done = run_command("compare", str(file), "--out", str(out), "--jobs", "2", "--seeds", "1")
    said = "small, gmp: method.stop: 3 is after the last round, 2: training ends before all is pruned"
    assert done.returncode == 0
    assert done.stdout.count(said) == 1  # not once a density
    assert (out / "comparison.html").read_text().count(said) == 1


def test_two_nodes_of_a_cluster_give_the_same(whole: tuple[Path, Path, asked.Comparison, Ran], tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    file, _, _, ran = whole
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        _, spread, said = go(file, tmp_path / "out", Where(1, cluster.address), only=["magnitude", "rigl"], seeds=1)
    finally:
        cluster.shutdown()
    assert len(said) == 2
    for each, told in spread.cells.items():
        assert told["curve"] == ran.cells[each]["curve"]
        assert told["bytes_up"] == ran.cells[each]["bytes_up"]


def test_no_cluster_is_said_in_a_line(tmp_path: Path) -> None:
    file = comparisons.write(tmp_path)
    done = run_command("compare", str(file), "--out", str(tmp_path / "out"), "--ray", "127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.startswith("--ray 127.0.0.1:1: no Ray cluster can be used there")
    assert len(done.stderr.strip().splitlines()) == 1
