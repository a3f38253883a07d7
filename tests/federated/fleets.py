"""Small fleets of unequal tiers in the tiny world, and what must hold of their states."""

import itertools
from typing import Any

import dealt
import numpy as np
import tiny_world
from flwr.serverapp import Grid

from fedprune.experiment import Experiment
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Reply
from fedprune.pruning import masks
from fedprune.runs import forms, over_flower
from fedprune.runs.drive import Progress, rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.forms import Check, Forms
from fedprune.runs.over_flower import Real
from fedprune.runs.setting import Setting

DENSITIES: dict[str, Any] = {
    "large": {"devices": 1},
    "middle": {"devices": 1, "density": 0.1},
    "small": {"devices": 2, "density": 0.05},
}
WIDTHS: dict[str, Any] = {
    "large": {"devices": 1},
    "middle": {"devices": 1, "density": 0.5},
    "small": {"devices": 2, "density": 0.25},
}
METHODS: dict[str, dict[str, Any]] = {
    "fedtiny": tiny_world.FEDTINY,
    "magnitude": {"name": "magnitude", "density": 0.2},
    "random_erk": {"name": "random_erk", "density": 0.2},
    "heterofl": {"name": "heterofl"},
    "fjord": {"name": "fjord"},
    "fedrolex": {"name": "fedrolex"},
}
STRUCTURED = ("heterofl", "fjord", "fedrolex")
TRAINING = {"batch": 8, "grow_batch": 16}


def fleet_of(method: str, **changes: Any) -> Experiment:
    """Three tiers over the tiny world's four devices; ``training`` is added to, other changes replace whole keys."""
    training = {**TRAINING, **changes.pop("training", {})}
    fleet = changes.pop("fleet", WIDTHS if method in STRUCTURED else DENSITIES)
    return tiny_world.experiment(**{"method": METHODS[method], "fleet": fleet, "training": training, **changes})


def drive(
    grid: Grid, setting: Setting, folder: RunFolder, state: State | None, progress: Progress, real: Real | None = None
) -> State:
    """All rounds over a grid, without the export that ends a run and its test by devices: the last state."""
    link = over_flower.link(grid, setting.experiment, progress, real, setting.holds, setting.more())
    return rounds(link, setting, folder, state, progress)[0]


def checked(setting: Setting, made: Forms, state: State) -> Check:
    """How a finished model does on the devices' test parts, as they say themselves."""
    phase, replies = forms.question(made), []
    request = from_records(to_records(phase.request(state, Job())))
    for device in dealt.devices(setting):
        reply = phase.device(device, request)
        phase.check(state, Job(), reply)
        replies.append(Reply(device.who, reply))
    return forms.checked(phase.reduce(state, replies), forms.runs_here(setting, made))


def tensors(state: State) -> dict[str, np.ndarray]:
    """Everything in a state, by a name of its own."""
    found = {f"{kind}/{n}": v for kind in ("params", "masks", "memory") for n, v in getattr(state, kind).items()}
    for name, part in state.parts.items():
        found |= {f"part/{name}/{kind}/{n}": v for kind in ("masks", "params") for n, v in getattr(part, kind).items()}
    return found


def assert_same(one: State, other: State) -> None:
    """Equal names, types, shapes and bits, those of the parts too, and the parts in the same order."""
    assert one.round == other.round
    assert list(one.parts) == list(other.parts)
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert value.dtype == theirs[name].dtype, name
        assert value.shape == theirs[name].shape, name
        assert value.tobytes() == theirs[name].tobytes(), name


def assert_whole(state: State) -> None:
    """Parts are nested, the largest is the model's own where single weights are pruned, and what is pruned is 0."""
    parts = list(state.parts.values())
    assert parts
    for large, small in itertools.pairwise(parts):
        assert large.masks.keys() == small.masks.keys()
        assert masks.nested(small.masks, large.masks)
        assert masks.kept(small.masks) < masks.kept(large.masks)
    if state.masks:
        assert masks.equal(parts[0].masks, state.masks)
        assert tiny_world.pruned_are_zero(state.params, state.masks)
    for name in state.parts:
        view = state.view(name)
        assert view.params.keys() == state.params.keys()
        for layer, mask in view.masks.items():
            assert not view.params[layer][~mask].any(), (name, layer)
            assert not np.signbit(view.params[layer][~mask]).any(), (name, layer)
        for layer, value in view.params.items():
            assert np.isfinite(value).all(), (name, layer)
            if layer not in state.parts[name].params:  # a part's weights are the model's
                kept = view.masks.get(layer, np.ones(value.shape, bool))
                assert np.array_equal(value[kept], state.params[layer][kept]), (name, layer)
