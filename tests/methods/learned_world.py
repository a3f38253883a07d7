"""A small made-up world whose runs take a second, and whose models are tested after each phase."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dealt
import numpy as np
import torch
from torch import nn

from fedprune import training
from fedprune.data import Dataset, Examples
from fedprune.experiment import Experiment, parse
from fedprune.federated.link.asking import Link
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.rounds import run
from fedprune.graph import width
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import Setting, prepare
from fedprune.types import Tensor

CLASSES, SHAPE = 6, (1, 8, 8)


def load(data_dir: Path | None = None) -> Dataset:
    """Noisy pictures of six patterns: a net that sees half of its channels cut off at random is lost."""
    rng = np.random.default_rng(1)
    labels = np.arange(420, dtype=np.int64) % CLASSES
    patterns = np.random.default_rng(7).integers(0, 256, (CLASSES, *SHAPE))
    inputs = np.clip(patterns[labels] + rng.normal(0, 90, (420, *SHAPE)), 0, 255).astype(np.uint8)
    mean, std = np.full((1, 1, 1), 0.5, np.float32), np.full((1, 1, 1), 0.3, np.float32)
    names = tuple("abcdef")
    return Dataset("learned", Examples(inputs, labels), None, names, SHAPE, mean, std, scale=1 / 255)


def net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three convolutions with batch norm, of 12, 16 and 16 channels, and a head."""

    def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())

    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)
    return nn.Sequential(conv(input_shape[0], 12), conv(12, 16, 2), conv(16, 16), *head)


def experiment(method: Mapping[str, Any], *, rounds: int = 6, seed: int = 0, **settings: Any) -> Experiment:
    """Three devices with skewed labels, and a method."""
    table = {
        "name": "learned",
        "model": "learned_world:net",
        "rounds": rounds,
        "seed": seed,
        "evaluate_every": rounds,
        "data": {"name": "learned_world:load", "devices": 3, "alpha": 2.0, "public": 0.2},
        "training": {"batch": 8, "epochs": 2, "augment": False, "final_learning_rate": 0.005, **settings},
        "pretraining": {"epochs": 6},
        "method": dict(method),
    }
    return parse(table, "learned")


class Phase(NamedTuple):
    """What a phase left."""

    name: str
    """train, evaluate, or what the method asked before it acted, if anything."""
    state: State
    row: dict[str, Any]


class Runs(NamedTuple):
    """A run, phase by phase."""

    setting: Setting
    phases: list[Phase]

    def after(self, round: int, name: str = "act") -> State:
        """The state that training, or the method's act, left in a round."""
        if name == "train":
            return next(p.state for p in self.phases if p.name == name and p.state.round == round - 1)
        others = ("train", "evaluate")
        return next(p.state for p in self.phases if p.name not in others and p.state.round == round)

    def accuracy(self, state: State) -> float:
        """Of the model as its devices hold it, on the test examples of all."""
        inputs, labels = dealt.test_set(self.setting)
        return float(np.mean(logits(self.setting, state, inputs).argmax(1) == labels))


def logits(setting: Setting, state: State, inputs: Tensor) -> Tensor:
    """Of the model that devices hold, in full shapes."""
    view = state.view(next(iter(state.parts), ""))
    return training.predict(setting.model(view.params), [(inputs, np.zeros(len(inputs), np.int64))])


def assert_same_function(setting: Setting, whole: State, narrowed: State) -> None:
    """What devices hold, physically narrower, against the whole model, in double precision."""
    inputs, _ = dealt.test_set(setting)
    narrow = width.narrow(narrowed.view("narrow").params, narrowed.parts["narrow"].masks)
    net = width.fit(setting.model(), {name: value.shape for name, value in narrow.items()})
    net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in narrow.items()})
    with torch.no_grad():
        small, large = (
            m.double().eval()(torch.from_numpy(inputs).double()) for m in (net, setting.model(whole.params))
        )
    torch.testing.assert_close(small, large, rtol=0, atol=1e-12)
    assert np.abs(logits(setting, narrowed, inputs) - logits(setting, whole, inputs)).max() < 1e-5


def runs(experiment: Experiment, start: State | None = None) -> Runs:
    """A whole run in this process, from a pretrained model."""
    setting = prepare(experiment, "test")
    phases, devices = list[Phase](), len(setting.holds)
    with LocalGrid(client_app, devices) as grid:
        link = Link(grid, experiment)
        for done in run(link, setting.tiers(), devices, start or pretrain(setting)):
            phases.append(Phase(done.row.get("phase", "act"), done.state, done.row))
    return Runs(setting, phases)
