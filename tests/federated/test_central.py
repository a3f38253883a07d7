"""One holder of all data: the model of a federation of one device, bit for bit, without Flower."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fleets
import numpy as np
import pytest
import tiny_world
import torch

from fedprune.data.loading import federation
from fedprune.experiment import Experiment, ExperimentError, from_json, parse, to_json
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.model import State, read
from fedprune.methods.layers import Shapes, masked
from fedprune.pruning.masks import ones_like
from fedprune.runs.central import central, here
from fedprune.runs.drive import rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.run import train
from fedprune.runs.setting import prepare
from fedprune.types import Ask, Found, Local, Method, Model, Optimiser, Params, Trained

METHODS: dict[str, dict[str, Any]] = {
    "fedtiny": tiny_world.FEDTINY,
    "magnitude": {"name": "magnitude", "density": 0.2},
    "fedavg": {"name": "fedavg"},
    "heterofl": {"name": "heterofl", "width": 0.5},
    "fedrolex": {"name": "fedrolex", "width": 0.5},
    "fjord": {"name": "fjord", "width": 0.5},
    "masks that travel": {"name": "tiny_world:random_candidates"},
    "all that a method may be": {"name": "test_central:everything"},
}
MORE: dict[str, Any] = {
    "epochs": 2,
    "clip_norm": 0.5,
    "quantise_last": 1,
    "participation": 0.4,
    "final_learning_rate": 0.01,
}


def everything(layers: Shapes, *, seed: int = 0) -> Method:
    """A loss and an optimiser of its own, memory that is read and trained, examples chosen, reports, evidence apart."""

    def loss(net: Any, params: Any, inputs: Any, labels: Any, memory: Any, now: Any) -> Any:
        logits = net(params, inputs) * memory["scale"]
        drift = sum((params[name] - memory[f"first/{name}"]).square().sum() for name in layers)
        return torch.nn.functional.cross_entropy(logits, labels) + 1e-3 * drift

    def move(trained: Any, grads: Any, state: Any, now: Any) -> None:
        for name, grad in grads.items():
            trained[name] -= 0.02 * grad.sign()

    def start(params: Params) -> Model:
        first = {f"first/{name}": params[name] for name in layers}
        return Model(params, ones_like(layers), {"scale": np.ones((), np.float32), **first})

    def join(model: Model, trained: Mapping[int, Trained]) -> Model:
        (one,) = trained.values()
        assert one.reports["right"]["accuracy"] <= 1
        moved = {f"first/{name}": model.params[name] for name in layers}
        return model._replace(memory={**model.memory, **moved, "at": one.reports["right"]["accuracy"]})

    def asks(model: Model, round: int, found: Found) -> dict[str, Ask]:
        return {"grads": Ask("gradients", list(layers), apart=True)} if round != 2 else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if not found.get("grads"):
            return model
        ((_, grads),) = found["grads"].items()
        half = {name: np.abs(value) > np.median(np.abs(value)) / 4 for name, value in grads.items()}
        return masked(model, {name: mask & half[name] for name, mask in model.masks.items()})

    local = Local(
        loss,
        Optimiser(lambda trained: {}, move, 0),
        lambda net, params, inputs, labels, memory, rng: rng.permutation(len(labels))[: len(labels) // 2],
        ("scale",),
        tuple(f"first/{name}" for name in layers),
        {"right": Ask("accuracy", "train")},
    )
    return Method(start, local=local, join=join, asks=asks, act=act)


def alone(experiment: Experiment, path: Path, progress: Callable[[dict[str, Any]], None] = lambda row: None) -> State:
    """The last state of a central run, without the export that ends it; goes on from what lies in ``path``."""
    setting, folder = prepare(experiment, "test"), RunFolder(path)
    state = folder.resume(experiment)
    if state is None:
        folder.begin(experiment)
    return rounds(here(setting), setting, folder, state, progress)[0]


def without(rows: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in keys} for row in rows]


@pytest.mark.parametrize("method", METHODS)
def test_one_holder_trains_what_a_federation_of_one_device_trains(
    method: str, go: Callable[..., Any], tmp_path: Path
) -> None:
    training = {"batch": 8, "grow_batch": 16, **MORE}
    asked = central(tiny_world.experiment(method=METHODS[method], training=training), "test")
    over_flower = go(asked)
    state = alone(asked, tmp_path / "alone")
    fleets.assert_same(over_flower.state, read(tmp_path / "alone" / "checkpoint.fedprune"))
    fleets.assert_same(over_flower.state, state)
    rows = RunFolder(tmp_path / "alone").rows()
    assert [list(row) for row in rows] == [list(row) for row in over_flower.rows]
    clock = "seconds", "bytes_up", "bytes_down"
    assert without(rows, *clock) == without(over_flower.rows, *clock)
    assert {row[key] for row in rows for key in ("bytes_up", "bytes_down") if key in row} == {0}
    assert state.round == 3


@pytest.mark.parametrize("ranges", ["public", "devices"])
def test_where_the_experiment_says_one_device_it_is_the_same_simulation(
    ranges: str, go: Callable[..., Any], tmp_path: Path
) -> None:
    """Not even the setting is the library's own word for it: one device, an iid partition of one part."""
    data = {"name": "tiny_world:load", "partition": "iid", "devices": 1, "public": 0.2}
    plain = tiny_world.experiment(rounds=2, data=data, export={"ranges": ranges})
    state = alone(central(plain, "test"), tmp_path / "alone")
    simulated = go(plain)
    fleets.assert_same(simulated.state, state)
    assert {name: value.tobytes() for name, value in simulated.state.notes.items()} == {
        name: value.tobytes() for name, value in state.notes.items()
    }


@pytest.mark.parametrize(
    "data", [{}, {"name": "tiny_world:load_people", "partition": "natural", "official_test": True}]
)
def test_one_holder_has_what_all_devices_have_and_no_more(data: dict[str, Any]) -> None:
    asked = tiny_world.experiment(
        data=data or {"name": "tiny_world:load", "partition": "dirichlet", "devices": 4, "alpha": 0.3, "public": 0.2}
    )
    spread, united = federation(asked), federation(central(asked, "test"))
    assert len(spread.devices) > 1
    (holder,) = united.devices
    for part in ("train_indices", "development_indices", "test_indices"):
        every = np.concatenate([getattr(device, part) for device in spread.devices])
        assert np.array_equal(np.sort(every), getattr(holder, part))
    assert np.array_equal(spread.public_indices, united.public_indices)
    assert np.array_equal(spread.unused_indices, united.unused_indices)


@pytest.mark.parametrize(
    ("round", "phase"), [(0, "bn_statistics"), (1, "train"), (2, "top_gradients"), (3, "evaluate")]
)
def test_a_central_run_stopped_anywhere_goes_on_to_the_same_model(round: int, phase: str, tmp_path: Path) -> None:
    asked = central(tiny_world.experiment(), "test")

    def stop(row: dict[str, Any]) -> None:
        if row.get("round") == round and row["phase"] == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alone(asked, tmp_path / "stopped", stop)
    fleets.assert_same(alone(asked, tmp_path / "whole"), alone(asked, tmp_path / "stopped"))
    rows = (RunFolder(tmp_path / name).rows() for name in ("whole", "stopped"))
    assert without(next(rows), "seconds") == without(next(rows), "seconds")


def test_training_that_diverges_stops_the_run_in_one_line_and_what_was_done_is_there(tmp_path: Path) -> None:
    training = {"batch": 8, "learning_rate": 1e30}
    asked = central(tiny_world.experiment(method={"name": "fedavg"}, training=training), "test")
    with pytest.raises(RunStopped, match=r"^round 1, train: diverged in step 2: the loss is nan; largest"):
        alone(asked, tmp_path / "run")
    assert read(tmp_path / "run" / "checkpoint.fedprune").round == 0


def test_a_fleet_is_trained_as_its_largest_part_and_privacy_is_left_out_each_in_one_line() -> None:
    said: list[str] = []
    asked = fleets.fleet_of("magnitude", fleet={"small": {"devices": 1, "density": 0.05}, "large": {"devices": 3}})
    made = central(asked, "test", say=said.append)
    assert made.fleet == {}
    assert made.method == {"name": "magnitude", "density": 0.2}
    assert made.data.central
    assert made.data.devices == 4
    assert said == ["fleet: left out; one holder trains the largest part, that of large: density 0.2"]
    narrow = central(fleets.fleet_of("heterofl", fleet={"one": {"devices": 4, "density": 0.5}}), "test")
    assert narrow.method == {"name": "heterofl", "width": 0.5}

    said.clear()
    private = tiny_world.experiment(privacy={"epsilon": 0.5})  # FedTiny, which no federation could do in private
    made = central(private, "test", say=said.append)
    assert not made.privacy.epsilon
    assert said == ["privacy: left out, without noise: what one holder of all data computes stays with it"]
    assert central(made, "test") == made


def test_that_a_run_is_central_is_in_its_experiment_and_nowhere_where_it_is_not() -> None:
    plain = tiny_world.experiment()
    made = central(plain, "test")
    assert "central" not in to_json(plain)
    assert from_json(to_json(made)) == made != plain
    with pytest.raises(ExperimentError, match=r"^t: data\.central: one holder of all data has no tiers"):
        parse({**json.loads(to_json(made)), "fleet": {"one": {"devices": 4}}}, "t")


def test_train_resumes_only_what_it_began(tmp_path: Path) -> None:
    asked = tiny_world.experiment(rounds=1)
    folder = RunFolder(tmp_path / "run")
    folder.begin(asked)
    folder.save(State(-1, {}))
    with pytest.raises(ExperimentError, match="holds another experiment"):
        train(asked, tmp_path / "run", resume=True)
