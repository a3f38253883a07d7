"""Laws that are true of any method, each tried on real rounds of a tiny model over made-up data, in this process.

``hold(law, "my_package.methods:mine", density=0.1)`` tries one of ``LAWS`` on a method of one's own.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import here
import numpy as np
import torch
from msgspec.structs import replace
from torch import nn

from fedprune import training, wire
from fedprune.budgets import smallest
from fedprune.data import Dataset, Examples
from fedprune.experiment import Experiment, from_json, parse, to_json
from fedprune.federated.link.asking import Link
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State, read, save
from fedprune.federated.rounds.rounds import run
from fedprune.federated.rounds.tiers import Tiers
from fedprune.methods import build, find, size_parameter
from fedprune.methods.asking import rehearsed
from fedprune.methods.building import Prunable, prunable_of
from fedprune.methods.nested import nested, why_not_shared
from fedprune.pruning import masks
from fedprune.runs import central
from fedprune.runs.setting import Setting, prepare
from fedprune.types import Masks, Params

ROUNDS, DEVICES = 3, 2
NEEDED: Mapping[str, Any] = {
    "density": 0.2,
    "width": 0.5,
    "initial": 0.5,
    "period": 1,
    "stop": 2,
    "pool": 3,
    "iterations": 9,
    "levels": 2,
    "fraction": 0.5,
    "goal": 0.0,
    "pull": 0.06,
    "trial": 1,
}
"""By the name of a parameter: what a method is given here, so that so few rounds show all that it does."""
WITHIN = {"fedtiny": 0.02, "fedtiny_halving": 0.02}
"""How far a density may be off, of itself, where that is not 1 %: FedTiny draws its candidates so."""
ALIKE = ("magnitude", "random_erk", "fedavg", "kd_dp", "as_pruned")
"""Methods that are one of the answers which others must not give, or prune nothing."""
APART = {
    "dis_pfl": "a device has a mask and weights of its own",
    "lottery_fl": "a device has a mask of its own",
    "spafl": "a device has weights of its own",
    "ssfl": "a device's saliency is of its own gradient, in size",
    "feddst": "a device swaps weights in a mask of its own",
    "dhspg": "a device projects its own steps",
    "kd_dp": "a device chooses of its own examples",
    "fedmef": "a device prunes its own activations",
    "zerofl": "a device prunes its own weights and activations",
    "sparsyfed": "a device prunes its own activations",
    "iss_p": "a device shrinks the least of its own weights",
    "mask_sparsity": "it needs batch norm, whose statistics are of a device's own batch",
}
"""Methods that do something else where examples are on several devices, by their papers, and why."""
_PERSONAL = "mask/"

Law = Callable[[str, Mapping[str, Any]], None]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def load(data_dir: Path | None = None) -> Dataset:
    """90 noisy images of three patterns."""
    rng = np.random.default_rng(5)
    labels = np.arange(90, dtype=np.int64) % 3
    inputs = rng.integers(0, 256, (3, 1, 6, 6))[labels] + rng.integers(-60, 60, (90, 1, 6, 6))
    half = np.full((1, 1, 1), 0.5, np.float32)
    examples = Examples(np.clip(inputs, 0, 255).astype(np.uint8), labels)
    return Dataset("made up", examples, None, ("a", "b", "c"), (1, 6, 6), half, half, scale=1 / 255)


def net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three convolutions with batch norm and two linear layers, of which all but the first and the last are pruned."""

    def conv(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, classes)
    return nn.Sequential(conv(1, 6), conv(6, 10), conv(10, 12), *head)


def without_norms(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """``net`` without batch norm: the gradient of all examples is the mean of those of any parts of them."""
    convs = [layer for i, o in ((1, 6), (6, 10), (10, 12)) for layer in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]
    head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, classes)
    return nn.Sequential(*convs, *head)


def experiment(name: str, given: Mapping[str, Any] = _NOTHING, **changes: Any) -> Experiment:
    """A few rounds of a method on a few devices; ``given`` are parameters of its own, ``changes`` whole keys."""
    takes = inspect.signature(find(name)).parameters
    table = {
        "name": "battery",
        "model": "battery:net",
        "rounds": ROUNDS,
        "seed": 3,
        "data": {"name": "battery:load", "devices": DEVICES, "partition": "dirichlet", "alpha": 1.0, "public": 0.2},
        "training": {"batch": 8, "grow_batch": 16, "learning_rate": 0.05, "weight_decay": 1e-3},
        "pretraining": {"epochs": 1},
        "method": {"name": name, **{key: value for key, value in NEEDED.items() if key in takes}, **given},
    }
    return parse({**table, **changes}, "battery")


class Ran(NamedTuple):
    """A run of a method."""

    setting: Setting
    begun: State
    """Before round 0."""
    states: tuple[State, ...]
    """After each step, of which there are several a round."""
    watched: int
    """Local steps after which pruned weights were +0."""

    @property
    def last(self) -> State:
        return self.states[-1]

    @property
    def layers(self) -> Mapping[str, tuple[int, ...]]:
        return self.setting.layers


def ran(name: str, given: Mapping[str, Any] = _NOTHING, **changes: Any) -> Ran:
    """The run of ``experiment``; one run serves all laws that ask for the same."""
    return _ran(to_json(experiment(name, given, **changes)))


@functools.lru_cache(maxsize=16)
def _ran(text: str) -> Ran:
    setting = prepare(from_json(text), "battery")
    begun = here.dense(setting.experiment)
    with _watched() as steps:
        states = tuple(step.state for step in here.steps(setting, begun))
    return Ran(setting, begun, states, len(steps))


@contextmanager
def _watched() -> Iterator[list[int]]:
    """A list that gets the number of each local step; before and after each, pruned weights must be +0."""
    steps: list[int] = []
    train = training.train

    def watching(model: nn.Module, batches: Any, sgd: Any, kept: Masks | None = None, **more: Any) -> Any:
        given = more.pop("before_step", None) or (lambda step: None)

        def before(step: int) -> None:
            if kept:
                _assert_zero({name: value.detach().numpy() for name, value in model.named_parameters()}, kept)
                steps.append(step)
            given(step)

        outcome = train(model, batches, sgd, kept, before_step=before, **more)
        _assert_zero({name: value.detach().numpy() for name, value in model.named_parameters()}, kept or {})
        return outcome

    with mock.patch.object(training, "train", watching):
        yield steps


def _assert_zero(params: Params, kept: Masks) -> None:
    for name, mask in kept.items():
        pruned = np.ascontiguousarray(params[name])[~mask]
        assert not pruned.any(), f"{name}: a pruned weight is not 0"
        assert not np.signbit(pruned).any(), f"{name}: a pruned weight is -0"


# -- the laws


def fits(name: str, given: Mapping[str, Any]) -> None:
    """What ``start`` and every step give fits the weights, and can travel; nothing it was given has changed."""
    it = ran(name, given)
    before = {key: value.copy() for key, value in it.begun.params.items()}
    started = it.begun.of(it.setting.method.start(it.begun.params))
    local = it.setting.method.local
    for state in (started, *it.states):
        masks.check(state.masks, state.params)
        shapes = {key: (value.dtype, value.shape) for key, value in state.params.items()}
        assert shapes == {key: (value.dtype, value.shape) for key, value in it.begun.params.items()}
        assert not state.masks.keys() - it.layers.keys(), "a mask of what must not be pruned"
        for part in state.parts.values():
            masks.check(part.masks, state.params)
            assert not part.params.keys() - state.params.keys()
        assert not {*local.reads, *local.trains} - state.memory.keys(), "the device half reads what is not in memory"
        back = wire.decode(wire.encode(dict(state.memory)), max_bytes=2**30)
        for key, value in state.memory.items():
            assert back[key].tobytes() == value.tobytes(), f"memory {key} is no array that can travel"
            assert value.dtype.kind != "f" or np.isfinite(value).all(), f"memory {key} is not finite"
        assert all(np.isfinite(value).all() for value in state.params.values())
    assert all(np.array_equal(value, it.begun.params[key]) for key, value in before.items()), "start moved its argument"


def zeros(name: str, given: Mapping[str, Any]) -> None:
    """Pruned weights are +0 after every local step, after every join and after every act."""
    it = ran(name, given)
    sparse = [state for state in it.states if state.masks and masks.density(state.masks) < 1]
    assert it.watched or not sparse
    for state in it.states:
        _assert_zero(state.params, state.masks)


def sizes(name: str, given: Mapping[str, Any]) -> None:
    """The density asked for is met within 1 % and a weight a layer, a device's own mask for each; a width in channels.

    That is at the end, once a schedule has come to its end.
    """
    it, sized = ran(name, given), size_parameter(name)
    if sized is None:
        return
    size = float(it.setting.experiment.method.get(*sized))
    if it.last.parts and sized[0] == "density":
        _assert_stored(it, size)
        return
    if sized[0] == "width":
        (part,) = it.last.parts.values()
        for group in _prunable(it.setting).channels()[0]:
            for member in group.members:
                alive = np.moveaxis(part.masks[member.name], member.dim, 0).reshape(member.shape[member.dim], -1).any(1)
                count = int(alive[member.positions].all(1).sum())
                assert count == math.ceil(size * group.size), f"{member.name}: {count} of {group.size} channels"
        return
    for owner, found in (_personal(it.last) or {"the model": it.last.masks}).items():
        _assert_size(owner, found, it.layers, size, name)


def _assert_stored(it: Ran, density: float) -> None:
    """A narrow model takes no more bytes than the weights do at that density, and more than half as many."""
    (part,) = it.last.parts.values()
    matrices = {name: value.size for name, value in it.last.params.items() if value.ndim > 1}
    allowed = smallest(matrices, {name: max(1, int(density * matrices[name])) for name in it.layers})[1]
    taken = sum(int(part.masks[name].sum()) if name in part.masks else size for name, size in matrices.items())
    assert allowed / 2 < taken <= allowed, f"{taken} bytes of {allowed}"


def _assert_size(owner: str, found: Masks, layers: Mapping[str, tuple[int, ...]], size: float, name: str) -> None:
    assert found.keys() == layers.keys(), f"{owner} has no mask of {sorted(layers.keys() - found.keys())}"
    total, kept = sum(math.prod(shape) for shape in layers.values()), masks.kept(found)
    far = WITHIN.get(name, 0.01) * size * total + len(layers)
    assert abs(kept - size * total) <= far, f"{owner} keeps {kept} of {total} weights, not {size} of them"


def _prunable(setting: Setting) -> Prunable:
    return prunable_of(setting.experiment, setting.model(), setting.schema.input_shape)


def _personal(state: State) -> dict[str, dict[str, np.ndarray]]:
    """Device -> its own masks, from memory ``mask/DEVICE/layer``."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in state.memory.items():
        if key.startswith(_PERSONAL):
            device, _, layer = key.removeprefix(_PERSONAL).partition("/")
            found.setdefault(f"device {device}", {})[layer] = value.astype(bool)
    return found


def seeds(name: str, given: Mapping[str, Any]) -> None:
    """The same seed gives the same bits, whatever was drawn elsewhere; another seed others, where the method draws."""
    it = ran(name, given)
    np.random.seed(17)  # noqa: NPY002
    torch.manual_seed(17)
    *_, again = here.steps(it.setting, it.begun)
    assert_same(again.state, it.last)
    if "seed" in inspect.signature(find(name)).parameters:
        others = [ran(name, {**given, "seed": seed}).last for seed in (11, 12)]
        assert any(_bits(other) != _bits(it.last) for other in others), "it takes a seed, and draws nothing by it"


def resumes(name: str, given: Mapping[str, Any]) -> None:
    """A checkpoint after any step is read as it was written, and a run that goes on from it takes the same next step.

    So it ends in the same bits, wherever it was stopped.
    """
    it = ran(name, given)
    with TemporaryDirectory() as folder:
        for state, after in zip((it.begun, *it.states), it.states, strict=False):
            save(state, Path(folder) / "state")
            kept = read(Path(folder) / "state")
            assert_same(kept, state)
            assert_same(next(here.steps(it.setting, kept)).state, after)


def roads(name: str, given: Mapping[str, Any]) -> None:
    """One device over Flower's messages, and one holder of all data without Flower, come to the same bits.

    Both are those of one device in this process, and all of torch; of the native trainer tests/native has as much.
    """
    data = {"name": "battery:load", "devices": 1, "public": 0.2}
    it = ran(name, given, data=data)
    with LocalGrid(client_app, 1) as grid:
        link = Link(grid, it.setting.experiment)
        *_, last = run(link, it.setting.tiers(), 1, it.begun)
    assert_same(last.state, it.last)
    *_, last = run(central.here(it.setting)._replace(more={}), it.setting.tiers(), 1, it.begun)
    assert_same(last.state, it.last)


def pooled(name: str, given: Mapping[str, Any]) -> None:
    """Devices that together hold what one holder holds come to the model that it comes to, up to rounding.

    That is where a step is of all examples at once, and where the method's own mathematics says so: not of ``APART``,
    nor of those that are told each device's own largest gradients.
    """
    if name in APART:
        return
    whole = {"batch": 512, "grow_batch": 512, "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 1e-3}
    it = ran(name, given, model="battery:without_norms", training=whole)
    asks = [ask.kind for each in rehearsed(it.setting.method, it.setting.zeros(), ROUNDS) for ask in each.asks.values()]
    if "top_gradients" in asks:
        return
    asked = it.setting.experiment
    setting = prepare(replace(asked, data=replace(asked.data, central=True)), "battery")
    *_, last = run(central.here(setting)._replace(more={}), setting.tiers(), 1, it.begun)
    assert masks.equal(last.state.masks, it.last.masks)
    for key, value in it.last.params.items():
        np.testing.assert_allclose(value, last.state.params[key], rtol=1e-4, atol=5e-6, err_msg=key)
    assert any(not np.array_equal(value, it.begun.params[key]) for key, value in it.last.params.items())


def differs(name: str, given: Mapping[str, Any]) -> None:
    """Masks are neither the random nor the magnitude answer of the same density: Jaccard below 0.99."""
    it = ran(name, given)
    if name in ALIKE or not it.last.masks:
        return
    size = masks.density(it.last.masks)
    for other in ("random_erk", "magnitude"):
        method = build({"name": other, "density": size}, it.layers, it.setting.experiment.seed)
        answer = method.start(it.begun.params).masks
        both, either = (
            masks.kept(masks.intersect(it.last.masks, answer)),
            masks.kept(masks.union(it.last.masks, answer)),
        )
        assert both < 0.99 * either, f"{name} keeps what {other} keeps"


def unanswered(name: str, given: Mapping[str, Any]) -> None:
    """Where no device can answer, and on a model of zeros, as a plan is made with, its masks still fit."""
    it = ran(name, given)
    method = it.setting.method
    rehearsed(method, it.setting.zeros(), ROUNDS)
    model = method.start(it.begun.params)
    for round in range(ROUNDS + 1):
        asked = dict[str, Any]()
        while new := method.asks(model, round, asked).keys() - asked.keys():
            asked |= {key: {} for key in new}
        model = method.act(model, asked, round)
        masks.check(model.masks, model.params)


def unequal(name: str, given: Mapping[str, Any]) -> None:
    """Shared by tiers of two sizes: the smaller's masks lie within the larger's, and each is of its own size."""
    it, sized = ran(name, given), size_parameter(name)
    if sized is None:
        return
    what = _prunable(it.setting)
    table, size = it.setting.experiment.method, float(it.setting.experiment.method.get(*sized))

    def at(part: float) -> Any:
        return build({**table, sized[0]: part}, what.layers, it.setting.experiment.seed, channels=what.channels)

    if why_not_shared(at(size), it.begun.params):
        return

    structured = bool(it.last.parts)

    def job(part: str) -> Job:
        return Job(part, structured, size=size if part == "large" else size / 2)

    tiers = Tiers(
        nested({"large": at(size), "small": at(size / 2)}),
        ("large", "small"),
        lambda device, memory_bytes: job("small" if device else "large"),
        lambda part, device, memory_bytes: job(part) if part == "small" or not device else None,
    )
    *_, last = here.steps(it.setting, it.begun, tiers)
    large, small = (part.masks for part in last.state.parts.values())
    assert masks.nested(small, large)
    if not structured:
        _assert_size("the larger part", large, it.layers, size, name)
        _assert_size("the smaller part", small, it.layers, size / 2, name)


LAWS: Mapping[str, Law] = {
    law.__name__: law for law in (fits, zeros, sizes, seeds, resumes, roads, pooled, differs, unanswered, unequal)
}


def hold(law: str, name: str, **given: Any) -> None:
    """AssertionError where the method ``name``, shipped or dotted, with these parameters breaks the law."""
    LAWS[law](name, given)


def assert_same(one: State, other: State) -> None:
    """Equal in every bit, but for what depends on how long something took."""
    mine, theirs = _bits(one), _bits(other)
    other = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
    assert not other, f"these differ: {other[:5]}"


def _bits(state: State) -> dict[str, Any]:
    groups = {key: getattr(state, key) for key in ("params", "masks", "memory", "notes")}
    groups |= {f"found/{key}": value for key, value in state.found.items()}
    for key, part in state.parts.items():
        groups |= {f"part/{key}/params": part.params, f"part/{key}/masks": part.masks}
    tensors = {
        f"{group}/{key}": (str(value.dtype), value.shape, np.asarray(value).tobytes())
        for group, values in groups.items()
        for key, value in values.items()
    }
    return {**tensors, "": json.dumps([state.round, list(state.parts), list(state.found), state.done])}
