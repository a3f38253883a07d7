"""A comparison's file: its cells, its settings, and what is wrong with one, in a line."""

import re
from pathlib import Path

import comparisons
import pytest

from fedprune.experiment import ExperimentError
from fedprune.runs.compare import asked, cells
from fedprune.runs.compare.cells import Cell


def test_cells_come_seed_by_seed_and_a_dense_method_once(tmp_path: Path) -> None:
    found = list(cells.cells(asked.read(comparisons.write(tmp_path))))
    assert found[:5] == [
        Cell("small", "rigl", 0.3, 0),
        Cell("small", "magnitude", 0.3, 0),
        Cell("small", "fedavg", 1.0, 0),
        Cell("small", "rigl", 0.1, 0),
        Cell("small", "magnitude", 0.1, 0),
    ]
    assert found[5:] == [each._replace(seed=1) for each in found[:5]]
    assert len({each.name() for each in found}) == 10


def test_a_run_has_the_schedule_that_its_method_takes(tmp_path: Path) -> None:
    file = comparisons.write(tmp_path)
    table = asked.read(file)
    rigl = cells.experiment(file, table, Cell("small", "rigl", 0.1, 7))
    assert rigl.method == {"name": "rigl", "period": 1, "stop": 3, "density": 0.1}
    assert rigl.seed == 7
    assert cells.experiment(file, table, Cell("small", "fedavg", 1.0, 0)).method == {"name": "fedavg"}


def test_a_tuned_rate_keeps_the_last_ones_share(tmp_path: Path) -> None:
    file = comparisons.write(tmp_path)
    tuned = cells.experiment(file, asked.read(file), Cell("small", "rigl", 0.1, 0), 0.1).training
    assert tuned.learning_rate == 0.1
    assert tuned.final_learning_rate == pytest.approx(0.02)


def test_trials_are_the_same_for_all_and_none_of_the_table(tmp_path: Path) -> None:
    tuned = "[tuning]\nlearning_rate = [0.02, 0.1]\ndensities = [0.1]\nseeds = 2\n[experiments.small]"
    file = comparisons.write(tmp_path, comparisons.COMPARISON.replace("[experiments.small]", tuned))
    table = asked.read(file)
    tried = list(cells.trials(table))
    assert {each.seed for each in tried} == {1000, 1001}
    assert [(each.method, each.density, each.rate) for each in tried if each.seed == 1001] == [
        ("rigl", 0.1, 0.02), ("rigl", 0.1, 0.1), ("magnitude", 0.1, 0.02), ("magnitude", 0.1, 0.1),
        ("fedavg", 1.0, 0.02), ("fedavg", 1.0, 0.1),
    ]  # fmt: skip
    assert not {each.seed for each in tried} & {each.seed for each in cells.cells(table)}


def test_quick_and_only_and_seeds(tmp_path: Path) -> None:
    quick = '[quick]\nmethods = ["rigl", "fedavg"]\ndensities = [0.1]\nseeds = 1\nset = ["rounds=1"]\n'
    file = comparisons.write(tmp_path, comparisons.COMPARISON + quick)
    table = asked.read(file, quick=True)
    assert [each.name() for each in cells.cells(table)] == ["small-rigl-0.1-seed0", "small-fedavg-1-seed0"]
    assert cells.experiment(file, table, next(cells.cells(table))).rounds == 1
    table = asked.read(file, seeds=3, only=["magnitude"])
    assert {each.seed for each in cells.cells(table)} == {0, 1, 2}
    assert asked.reference(table) == "magnitude"  # the file's is not among them
    with pytest.raises(ExperimentError, match="--only: 'snip' is none of rigl, magnitude, fedavg"):
        asked.read(file, only=["rigl", "snip"])
    with pytest.raises(ExperimentError, match="--experiments: 'large' is none of small"):
        asked.read(file, experiments=["large"])


def test_only_narrows_what_an_experiment_names_itself(tmp_path: Path) -> None:
    more = '[experiments.costly]\nfile = "small.toml"\nmethods = ["rigl", "fedavg"]\n[methods]'
    file = comparisons.write(tmp_path, comparisons.COMPARISON.replace("[methods]", more))
    assert {(each.experiment, each.method) for each in cells.cells(asked.read(file, only=["rigl"]))} == {
        ("small", "rigl"),
        ("costly", "rigl"),
    }
    assert {each.experiment for each in cells.cells(asked.read(file, only=["magnitude"]))} == {"small"}
    with pytest.raises(ExperimentError, match="--only: none of magnitude is a method of costly"):
        asked.read(file, only=["magnitude"], experiments=["costly"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = 2", "seeds = 0", "seeds: expected a whole number >= 1"),
        ("seeds = 2", "seed = 2", "seed: unknown key; did you mean seeds?"),
        ("densities = [0.3, 0.1]", "densities = []", "densities: expected one at least"),
        ("densities = [0.3, 0.1]", "densities = [30]", "densities[0]: expected a number <= 1.0"),
        ('against = "rigl"', 'against = "regl"', "against: 'regl' is none of rigl, magnitude, fedavg"),
        ("magnitude = {}", "magnitud = {}", "methods.magnitud: name: 'magnitud' is not one of"),
        ("magnitude = {}", '"a/b" = {name = "rigl"}', "'a/b': expected letters, digits and underscores"),
        ('file = "small.toml"', 'file = "none.toml"', "none.toml: cannot be read (No such file or directory)"),
        (
            "magnitude = {}",
            "magnitude = {flor = 1}",
            "methods.magnitude.flor: unknown key; magnitude takes density, floor",
        ),
        ("densities = [0.3, 0.1]", "densities = [0.3, 0.3]", "densities: 0.3 is there twice; name it once"),
        ("target = 0.05", 'methods = ["rigl", "rigl"]', "experiments.small.methods: rigl is there twice"),
        ("target = 0.05", "targets = 0.05", "unknown key; did you mean target?"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    from fedprune.runs.compare.running import Where, run

    assert old in comparisons.COMPARISON
    file = comparisons.write(tmp_path, comparisons.COMPARISON.replace(old, new))
    with pytest.raises(ExperimentError, match=re.escape(said)) as raised:
        run(file, asked.read(file), tmp_path / "out", None, Where(1), lambda *told: None)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path))
    assert not (tmp_path / "out").exists()
