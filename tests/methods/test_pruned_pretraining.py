"""A method that has a say in the server's pretraining, over real runs: FedTiny plus."""

import statistics
from pathlib import Path
from typing import Any

import digits_runs
import numpy as np
import pytest
from msgspec.structs import replace

from fedprune.experiment import Experiment, ExperimentError
from fedprune.runs.folder import RunFolder
from fedprune.runs.pretraining import pretrain, unfinished
from fedprune.runs.run import train
from fedprune.runs.setting import prepare


def experiment(seed: int = 0, epochs: int = 10, **method: Any) -> Experiment:
    return digits_runs.experiment(
        method, rounds=4, seed=seed, model="digits_cnn", pretraining={"epochs": epochs}, prune_first=False,
        prune_last=False,
    )  # fmt: skip


def test_the_server_trains_on_what_it_has_left() -> None:
    asked = experiment(name="fedtiny_plus", density=0.1)
    setting = prepare(asked, "test")
    state, dense = pretrain(setting), pretrain(prepare(experiment(name="magnitude", density=0.1), "test"))
    model = setting.method.start(state.params)
    for name, shape in setting.layers.items():
        size = int(np.prod(shape))
        assert np.count_nonzero(state.params[name]) == int(0.1 * size)
        assert np.array_equal(model.params[name], state.params[name])
        assert np.count_nonzero(dense.params[name]) == size
    # without pretraining the largest of the seed's weights are kept
    none = prepare(replace(asked, pretraining=replace(asked.pretraining, epochs=0)), "test")
    fresh = pretrain(none).params
    for name, shape in setting.layers.items():
        assert np.count_nonzero(fresh[name]) == np.prod(shape)
        assert setting.method.start(fresh).masks[name].sum() == model.masks[name].sum()
    # which is said
    assert not setting.unmet
    assert none.unmet == (
        "method.name: fedtiny_plus prunes while the server pretrains, which has no epoch of it: it prunes at once",
    )
    alone = prepare(replace(asked, data=replace(asked.data, public=0.0)), "test")
    assert alone.unmet == ("pretraining.epochs: the server has no example of its own, so nothing is pretrained",)
    unsaid = replace(alone.experiment, pretraining=replace(asked.pretraining, epochs=None))
    (line,) = prepare(unsaid, "test").unmet
    assert "which has no example of its own: it prunes at once" in line
    assert not prepare(replace(unsaid, method={"name": "fedavg"}), "test").unmet


def test_stopped_between_two_epochs_of_pretraining_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    asked = replace(experiment(epochs=5, name="fedtiny_plus", density=0.05, stop=0), rounds=1)
    whole, cut, told = tmp_path / "whole", tmp_path / "cut", list[dict[str, Any]]()
    train(asked, whole)

    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row.get("epoch") == 3:
            raise Stop

    with pytest.raises(Stop):
        train(asked, cut, progress=stop)
    with pytest.raises(ExperimentError, match="holds an unfinished run"):
        train(asked, cut)
    state = RunFolder(cut).state()
    assert unfinished(state)
    assert 0 < state.density() < 1  # the method had begun to prune
    RunFolder(cut).checkpoint.write_bytes(b"cut short")  # so that it is the epoch before
    train(asked, cut, resume=True, progress=told.append)
    assert any("going on from the one before, of before round 0" in row.get("notice", "") for row in told)
    assert [row["epoch"] for row in told if "epoch" in row] == [3, 4, 5]
    assert not unfinished(RunFolder(whole).state())
    assert (whole / "model.npz").read_bytes() == (cut / "model.npz").read_bytes()


def test_at_a_hundredth_what_was_pruned_while_it_trained_learns_where_what_was_cut_at_once_does_not() -> None:
    by_and_by, at_once = (
        [digits_runs.run(experiment(seed, density=0.01, stop=0, **method)).accuracy for seed in range(3)]
        for method in ({"name": "fedtiny_plus"}, {"name": "fedtiny", "pool": 1})
    )
    # 76.6 % and 38.0 % after four rounds
    assert statistics.mean(by_and_by) - statistics.mean(at_once) > 0.2
    assert min(by_and_by) > max(at_once)
