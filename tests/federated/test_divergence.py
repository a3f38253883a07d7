"""Divergence is said as such, in its round: which device, which tensor, how large; the others go on without it."""

import re
from collections.abc import Callable
from typing import Any

import dealt
import numpy as np
import pytest
import tiny_world
from flwr.clientapp import ClientApp

from fedprune.federated.rounds.asking import Diverged
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.model import read
from fedprune.federated.rounds.phases import divergence, evaluate
from fedprune.runs.central import central, here
from fedprune.runs.drive import rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import prepare
from fedprune.wire.payload import Payload

SAID = r"diverged in step \d+: the loss is (?:[\d.e+]+|nan|inf); largest value: .* in \d\.[\w.]+"


def experiment(**changes: Any) -> Any:
    return tiny_world.experiment(**{"rounds": 2, "method": {"name": "fedavg"}, **changes})


def unstable_app() -> ClientApp:
    """Devices 1 and 3 train with a learning rate that nothing survives."""

    def wrap(half: tiny_world.Half) -> tiny_world.Half:
        def device(self: Device, request: Payload) -> Payload:
            rate = 1e9 if self.who in (1, 3) else request.values["learning_rate"]
            return half(self, request._replace(values={**request.values, "learning_rate": rate}))

        return device

    return tiny_world.app_with({"train": wrap})


def test_the_round_goes_on_without_devices_that_diverged(go: Callable[..., Any]) -> None:
    run = go(experiment(), make_app=unstable_app)
    for row in (row for row in run.rows if row["round"]):
        assert row["faults"].keys() == ({"1", "3"} if row["phase"] == "train" else set())
        assert all(re.match(SAID, why) for why in row["faults"].values())
        assert row["loss"] < 2
        assert "retried" not in row
    asked = [m.metadata.dst_node_id for m, _ in run.crossed if m.metadata.message_type == "train"]
    assert len(asked) == 2 * 4  # the same request would end in the same way
    assert all(np.isfinite(value).all() for value in run.state.params.values())


def test_where_too_few_are_left_the_run_stops_with_a_line_and_is_kept(go: Callable[..., Any], tmp_path: Any) -> None:
    settings = {"batch": 8, "schedule": [{"rounds": 1}, {"rounds": 1, "to": 1e9, "along": "step"}]}
    with pytest.raises(Diverged) as error:
        go(experiment(training=settings))
    assert re.match(rf"round 2, train: 0 of 4 devices answered well\. device 0: {SAID}", str(error.value))
    assert "; lower training.learning_rate (1e+09 here), set training.clip_gradients" in str(error.value)
    assert "\n" not in str(error.value)
    assert read(tmp_path / "run" / "checkpoint.fedprune").round == 1


def test_one_holder_of_all_data_diverges_as_well(tmp_path: Any) -> None:
    asked = central(experiment(training={"batch": 8, "learning_rate": 1e9, "clip_gradients": 1e9}), "test")
    setting, folder = prepare(asked, "test"), RunFolder(tmp_path / "run")
    folder.begin(asked)
    with pytest.raises(Diverged, match=rf"^round 1, train: {SAID}.*lower training.clip_gradients \(1e\+09\)"):
        rounds(here(setting), setting, folder, None, lambda row: None)


@pytest.mark.parametrize("epochs", [1, 3])
def test_pretraining_says_so_in_its_epoch(epochs: int) -> None:
    asked = experiment(pretraining={"epochs": epochs, "learning_rate": 1e12, "batch": 500})  # one step an epoch
    with pytest.raises(Diverged, match=r"^pretraining, epoch \d: diverged.*; lower pretraining.learning_rate"):
        pretrain(prepare(asked, "test"))


def test_a_test_whose_loss_is_not_finite_is_no_test() -> None:
    setting = prepare(experiment(), "test")
    device, phase = dealt.devices(setting)[0], evaluate.evaluate()
    state = pretrain(setting)
    broken = {**state.params, "5.weight": np.full_like(state.params["5.weight"], np.inf)}
    answer = phase.device(device, Payload({}, broken))
    assert divergence.why(answer.values) == "diverged: the loss is nan; largest value: inf in 5.weight"
    assert not answer.tensors
    assert divergence.why(phase.device(device, Payload({}, state.params)).values) == ""


def pushed(rate: float) -> Any:
    return experiment(training={"server_optimiser": "adam", "server_learning_rate": rate, "batch": 8}, rounds=1)


def test_a_loss_that_has_exploded_is_said_in_its_round(go: Callable[..., Any]) -> None:
    """Finite, and of a model that every device could still train: rounds that would count as good."""
    tests = [row for row in go(pushed(1e3)).rows if row["phase"] == "evaluate"]
    assert "diverged" not in tests[0]
    assert re.match(r"the loss is [\d.e+]+, and was 1\.\d* in the first test", tests[1]["diverged"])


def test_where_it_is_not_finite_the_run_stops(go: Callable[..., Any]) -> None:
    with pytest.raises(Diverged, match=r"^round 1, evaluate: 0 of 4 .* the loss is nan.*training.server_learning_rate"):
        go(pushed(1e6))


@pytest.mark.parametrize(
    "said",
    [
        None, 3, {}, {"loss": "1", "tensor": "w"}, {"loss": "x", "tensor": "w", "largest": "1"},
        {"loss": "1", "tensor": "w\n", "largest": "1"}, {"loss": "1", "tensor": "w" * 300, "largest": "1"},
        {"loss": "1", "tensor": 2, "largest": "1"}, {"loss": "1", "tensor": "w", "largest": "1", "step": -1},
    ],
)  # fmt: skip
def test_lies_about_it_are_named(said: Any) -> None:
    with pytest.raises(ValueError, match=r"^diverged is "):
        divergence.why({"diverged": said})
