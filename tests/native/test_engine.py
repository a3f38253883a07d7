"""``training.engine``: which trainer a run uses and why, and that it makes no difference where it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_world
import torch
from torch import nn

from fedprune.experiment import Experiment, ExperimentError
from fedprune.graph import trace
from fedprune.graph.message import of_text, slots_of_text, to_text
from fedprune.native import library, nodes
from fedprune.runs.run import simulate, train
from fedprune.runs.setting import prepare
from fedprune.training import state_of

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")


_OTHERWISE = "a step of the model in training is not what its graph says"


def asked(engine: str = "native", **changes: Any) -> Experiment:
    training = {"batch": 8, "grow_batch": 16, "engine": engine, **changes.pop("training", {})}
    return tiny_world.experiment(**{"training": training, "method": tiny_world.FEDTINY, **changes})


def recurrent(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.gru(x[:, 0])[0][:, -1])
            return logits

    return Net()


def _then(change: Callable[[torch.Tensor, bool], torch.Tensor], classes: int) -> nn.Module:
    class Changed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return change(x, self.training)

    return nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), Changed(), nn.Linear(20, classes))


def noisy(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _then(lambda x, training: x + torch.rand_like(x) if training else x, classes)


def alpha(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _then(lambda x, training: nn.functional.alpha_dropout(x, 0.3, training), classes)


def never(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _then(lambda x, training: nn.functional.dropout(x, 0.3, False), classes)


def always(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _then(lambda x, training: nn.functional.dropout(x, 0.3, True), classes)


def otherwise(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _then(lambda x, training: nn.functional.dropout(x, 0.3 if training else 0.2, training), classes)


def tied(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    layer = nn.Linear(36, 36)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(36, classes))


def squared(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(36, 20), nn.Linear(20, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x.flatten(1))
            logits: torch.Tensor = self.head(y * y)
            return logits

    return Net()


def frozen(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = tiny_world.net(input_shape, classes)
    net[1].requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (recurrent, "Gru in 'gru' has no kernels"),
        (noisy, f"{_OTHERWISE}: .* come"),
        (alpha, f"{_OTHERWISE}: .* come"),
        (never, f"{_OTHERWISE}: what it drops is otherwise"),
        (always, f"{_OTHERWISE}: what it drops is otherwise"),
        (otherwise, f"{_OTHERWISE}: what it drops is otherwise"),
        (tied, "1.weight is a weight of two layers"),
        (frozen, "1.0.weight is frozen"),
        (squared, "Multiply in 'mul' is of one tensor with itself"),
    ],
)
def test_what_is_not_covered_trains_with_torch_and_says_why(net: Any, why: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(tiny_world, net.__name__, net, raising=False)
    model = f"tiny_world:{net.__name__}"
    setting = prepare(asked("auto", model=model, method={"name": "fedavg"}), "test")
    assert setting.engine.net == ""
    (said,) = [notice for notice in setting.notices if notice.startswith("training.engine")]
    assert said.startswith("training.engine: devices train with torch")
    assert re.search(why, said)
    with pytest.raises(ExperimentError, match=f"test: training.engine: no native training, since .*{why}"):
        prepare(asked("native", model=model, method={"name": "fedavg"}), "test")


def test_a_method_with_steps_of_its_own_trains_them_with_torch() -> None:
    own = {"name": "lottery_jackpots", "density": 0.5}
    setting = prepare(asked("auto", method=own, rounds=3), "test")
    (said,) = [notice for notice in setting.notices if notice.startswith("training.engine")]
    assert said.endswith("and train with torch, since lottery_jackpots has local steps of its own")
    assert setting.engine.net
    with pytest.raises(ExperimentError, match="since lottery_jackpots has local steps of its own"):
        prepare(asked("native", method=own, rounds=3), "test")


def widening(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Which computes something else at another width."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(8, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))
            return logits if self.first.out_channels == 6 else -logits

    return Net()


def test_what_narrows_a_model_trains_natively_where_its_graph_says_what_it_is(monkeypatch: Any) -> None:
    method = {"name": "heterofl", "width": 0.5}
    narrow = prepare(asked("native", method=method), "test")
    assert narrow.engine.net
    assert any("devices train natively, without torch" in said for said in narrow.notices)
    assert prepare(asked("auto", method=method), "test").engine._replace(said=narrow.engine.said) == narrow.engine
    monkeypatch.setattr(tiny_world, "widening", widening, raising=False)
    other = prepare(asked("auto", model="tiny_world:widening", method=method), "test")
    assert other.engine.net == ""
    why = "devices train with torch, since at half its width a step of the model in training is not what its graph says"
    assert any(why in said for said in other.notices)


def test_adam_and_other_tasks_train_with_torch() -> None:
    assert prepare(asked("auto", training={"optimiser": "adam"}), "test").engine.net == ""
    assert prepare(asked("auto"), "test").engine.net
    assert prepare(asked("torch"), "test").engine.net == ""


def test_a_graph_travels_without_its_weights() -> None:
    model = tiny_world.net((1, 6, 6), 3).eval()
    graph = trace(model, torch.zeros(1, 1, 6, 6))
    slots = {name: (value.shape, value.dtype.name, True) for name, value in state_of(model).items()}
    text = to_text(graph, slots)
    assert slots_of_text(text) == slots
    assert len(text) < 1000
    there = of_text(text, state_of(model))
    assert nodes.not_covered(there) is None
    assert [type(op) for op in there.operations] == [type(op) for op in graph.operations]
    assert dict(there.shapes) == dict(graph.shapes)
    for wrong in ("", text[:-9], text[::-1]):
        with pytest.raises(ValueError, match="not a graph"):
            of_text(wrong, state_of(model))
        with pytest.raises(ValueError, match="not a graph"):
            slots_of_text(wrong)
    with pytest.raises(ValueError, match="not a graph"):
        of_text(text, {})
    with pytest.raises(ValueError, match="its state is too large"):
        slots_of_text(to_text(graph, {"weight": ((2**20, 2**20), "float32", True)}))


def test_a_simulation_learns_and_ends_in_files(tmp_path: Path) -> None:
    """And torch gives much the same."""
    found = {}
    for engine in ("native", "torch"):
        rows: list[dict[str, Any]] = []
        found[engine] = train(asked(engine, rounds=4), tmp_path / engine, progress=rows.append)
        assert any("train natively" in row.get("notice", "") for row in rows) == (engine == "native")
    assert found["native"]["accuracy_float"] > 0.8
    assert abs(found["native"]["accuracy_float"] - found["torch"]["accuracy_float"]) < 0.15
    assert (tmp_path / "native" / "model.tflite").exists()


def test_stopped_and_resumed_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(asked(), whole)

    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row.get("phase") == "train" and row.get("round") == 2:
            raise Stop

    with pytest.raises(Stop):
        train(asked(), cut, progress=stop)
    train(asked(), cut, resume=True)
    assert (whole / "model.npz").read_bytes() == (cut / "model.npz").read_bytes()


def test_one_holder_trains_the_bits_of_a_federation_of_one(tmp_path: Path) -> None:
    data = {"name": "tiny_world:load", "partition": "iid", "devices": 1, "public": 0.2}
    simulate(asked(data=data), tmp_path / "over")
    train(asked(data=data), tmp_path / "here")
    assert (tmp_path / "over" / "model.npz").read_bytes() == (tmp_path / "here" / "model.npz").read_bytes()
