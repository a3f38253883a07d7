"""Runs of nets as people bring them: shared, frozen and folded weights, small and wide nets, what no file can hold."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world

from fedprune.experiment import ExperimentError
from fedprune.methods.layers import Shapes
from fedprune.pruning.masks import ones_like
from fedprune.runs.outcome import export
from fedprune.runs.pretraining import pretrain
from fedprune.runs.run import simulate, train
from fedprune.runs.setting import prepare
from fedprune.types import Found, Method, Model

MEDIAN = {"training": {"batch": 8, "aggregate": "median", "clip_norm": 1.0}}
NOISE = {"privacy": {"epsilon": 0.9}, "method": {"name": "magnitude", "density": 0.3}}
FLEET = {"fleet": {"one": {"devices": 2}, "two": {"devices": 2, "density": 0.1}}}
METHODS = ("fedtiny", "synflow", "dhspg", "fedrolex", "lottery_jackpots")
NO_CHANNELS = {("dhspg", "tied"), ("fedrolex", "tied")}


def run(
    net: str, folder: Path, how: Callable[..., dict[str, Any]] = train, **changes: Any
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(result.json, model.npz, what was said before)."""
    said: list[str] = []
    experiment = tiny_world.experiment(model=f"odd_nets:{net}", rounds=2, **changes)
    result = how(experiment, folder, progress=lambda row: said.append(row.get("notice", "")))
    with np.load(folder / "model.npz") as file:
        return result, {name: file[name] for name in file.files}, [text for text in said if text]


def test_a_shared_weight_is_pruned_stored_and_counted_once(tmp_path: Path) -> None:
    result, model, said = run("tied", tmp_path / "run")
    assert "1.0.weight" in model
    assert "mask/1.0.weight" in model
    assert "2.0.weight" not in model
    # 72 + 576 + 24 weights, 3 biases, three batch norms of 8
    assert result["parameters"] == 72 + 576 + 24 + 3 + 3 * 2 * 8
    assert result["checks"]["litert_float"]["agreement"] == 1.0
    assert said[0].startswith("pruned: 1 of 3 layers, 85.7% of their weights; the first, 0.0.weight, is dense")


@pytest.mark.parametrize("changes", [{}, MEDIAN, NOISE, FLEET], ids=["plain", "median", "noise", "fleet"])
def test_what_is_frozen_ends_as_it_began(changes: dict[str, Any], tmp_path: Path) -> None:
    _, model, said = run("frozen", tmp_path / "run", functools.partial(simulate, engine=tiny_world.HERE), **changes)
    first = prepare(tiny_world.experiment(model="odd_nets:frozen"), "test").model().state_dict()
    still = [name for name in first if name.startswith(("0.", "1."))]
    assert len(still) == 12
    assert all(np.array_equal(model[name], first[name].numpy()) for name in still)
    assert not np.array_equal(model["2.0.weight"], first["2.0.weight"].numpy())
    assert not np.array_equal(model["2.1.running_mean"], first["2.1.running_mean"].numpy())
    assert [name for name in model if name.startswith("mask/")] == ["mask/2.0.weight"]
    assert any(text.startswith("frozen, neither trained nor pruned: 0.0.weight, ") for text in said)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("net", ["frozen", "tied"])
def test_every_way_of_pruning_takes_frozen_and_shared_weights(name: str, net: str, tmp_path: Path) -> None:
    keys = {"fedrolex": {"width": 0.5}, "dhspg": {}}.get(name, {"density": 0.3})
    if (name, net) in NO_CHANNELS:
        with pytest.raises(ExperimentError, match="method: the model has no channels that can be followed"):
            run(net, tmp_path / net, method={"name": name, **keys})
    else:
        assert run(net, tmp_path / net, method={"name": name, **keys})[0]["rounds"] == 2


def test_parametrisations_and_further_outputs_are_said_once(tmp_path: Path) -> None:
    result, model, said = run("folded", tmp_path / "run")
    assert {"body.1.weight", "body.3.weight"} <= model.keys()
    assert not any("parametrizations" in name for name in model)
    assert any("body.1.weight, body.3.weight: folded" in text for text in said)
    assert any("returns a tuple: its first tensor is the output" in text for text in said)
    assert any("without a part in the output, left as they are: aux.weight, aux.bias, spare.weight" in t for t in said)
    assert len(said) == len({*said})
    assert result["checks"]["litert_float"]["agreement"] == 1.0


def test_a_net_of_two_layers_is_pruned(tmp_path: Path) -> None:
    result, model, said = run("mlp", tmp_path / "run", method={"name": "magnitude", "density": 0.25})
    assert {"mask/1.weight", "mask/3.weight"} <= model.keys()
    assert result["density"] == pytest.approx(0.25, abs=0.01)
    assert "since nothing lies between (prune_first)" in said[0]
    assert len(said) == 1  # the density can be met
    dense = prepare(tiny_world.experiment(model="odd_nets:mlp", prune_first=True, prune_last=False), "test")
    assert [*dense.layers] == ["1.weight"]
    # 1,152 of 1,248 weights at a fifth, and 96: 0.2 · 0.923 + 0.077
    assert any("0.262 of all layers' weights is the least that is left" in text for text in dense.notices)


def test_what_goes_as_channels_is_said_so() -> None:
    said = prepare(tiny_world.experiment(model="odd_nets:mlp", method={"name": "fedrolex", "width": 0.5}), "test")
    assert said.notices[0] == "pruned: whole channels, in 2 of 2 layers; coupled groups of them: 1"
    assert not any("prune_first" in text or "density" in text for text in said.notices)
    weights = prepare(tiny_world.experiment(model="odd_nets:mlp", method={"name": "kd_dp", "density": 0.5}), "test")
    assert weights.notices[0].startswith(
        "pruned: 2 of 2 layers, 100.0% of their weights; the first, 1.weight, is pruned"
    )


def test_recurrent_and_attention_weights_are_pruned_and_what_no_file_holds_is_said_in_a_line(tmp_path: Path) -> None:
    result, model, said = run("recurrent", tmp_path / "run")
    pruned = {name.removeprefix("mask/") for name in model if name.startswith("mask/")}
    assert pruned == {
        "rnn.weight_ih_l0", "rnn.weight_hh_l0", "attention.in_proj_weight", "attention.out_proj.weight"
    }  # fmt: skip
    assert result["density"] == pytest.approx(0.2, abs=0.02)
    why = result["no_export"]
    assert "odd_nets" in why
    assert "line " in why
    assert any(text.startswith(why) for text in said)
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "model.tflite").exists()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["accuracy_float"] is not None
    with pytest.raises(ExperimentError, match=r"cannot be exported: aten\.\w+ .*odd_nets.py, line \d+") as caught:
        export(tmp_path / "run", True, None)
    assert "\n" not in str(caught.value)


def test_a_fleet_of_a_net_without_a_graph_is_refused_in_a_line() -> None:
    experiment = tiny_world.experiment(model="odd_nets:recurrent", **FLEET)
    with pytest.raises(ExperimentError, match=r"cannot be exported: aten\.\w+ is not covered: .*line \d+"):
        prepare(experiment, "test")


def test_weights_saved_under_all_names_of_a_shared_tensor_are_taken(tmp_path: Path) -> None:
    state = prepare(tiny_world.experiment(model="odd_nets:tied", seed=5), "test").model().state_dict()
    np.savez(tmp_path / "all.npz", **{name: value.numpy() for name, value in state.items()})  # type: ignore[arg-type]
    assert "2.0.weight" in state
    given = tiny_world.experiment(model="odd_nets:tied", pretraining={"weights": str(tmp_path / "all.npz")})
    assert np.array_equal(pretrain(prepare(given, "test")).params["1.0.weight"], state["1.0.weight"].numpy())


@pytest.mark.parametrize(
    ("method", "rounds", "late"),
    [
        ({"name": "gmp", "density": 0.3, "stop": 4}, 3, True),
        ({"name": "gmp", "density": 0.3, "stop": 3}, 3, False),
        ({"name": "hesso", "stop": 4}, 3, True),
        ({"name": "granet", "density": 0.1, "initial": 0.5}, 3, True),
        ({"name": "rigl", "density": 0.3}, 3, False),
        ({"name": "magnitude", "density": 0.3}, 0, False),
        (tiny_world.FEDTINY, 3, False),
        ({"name": "fedtiny", "density": 0.21, "pool": 1, "stop": 4}, 3, False),  # what it swaps is no denser
        ({"name": "fedrts", "density": 0.1, "stop": 8}, 3, False),
        ({"name": "gmp", "density": 0.3, "stop": 5, "period": 2}, 3, True),
    ],
)
def test_training_that_ends_before_all_is_pruned_is_told(method: dict[str, Any], rounds: int, late: bool) -> None:
    said = prepare(tiny_world.experiment(method=method, rounds=rounds), "test").notices
    assert any(text.startswith(f"method.stop: {method.get('stop', 100)} is after") for text in said) is late


def counts_on_answers(layers: Shapes, *, stop: int) -> Method:
    """Somebody's own: from round 1 on it reads what devices bring, and is not to be asked without."""

    def act(model: Model, found: Found, round: int) -> Model:
        return model if not round else model._replace(memory={"best": found["losses"][0]["loss"]})

    return Method(lambda params: Model(params, ones_like(layers)), act=act)


def test_a_method_that_counts_on_answers_begins_all_the_same() -> None:
    method = {"name": "test_as_they_are:counts_on_answers", "stop": 9}
    assert prepare(tiny_world.experiment(method=method, rounds=3), "test").unmet == ()


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (4, ""),
        (6, "method.levels: the last of 6 is after round 12, of 12: nothing trains what it leaves"),
        (7, "method.levels: the last of 7 is after round 14, of 12: training ends before all is pruned"),
    ],
)
def test_levels_that_end_with_training_are_said(levels: int, said: str) -> None:
    method = {"name": "lth", "density": 0.2, "levels": levels, "period": 2}
    setting = prepare(tiny_world.experiment(method=method, rounds=12), "test")
    found = [text for text in setting.notices if text.startswith("method.levels")]
    assert [text.partition(";")[0] for text in found] == ([said] if said else [])
