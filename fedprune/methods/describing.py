"""A method in words: its paper, its parameters, when it acts, what it asks of devices and how they train.

What a method does is seen by rehearsing it on the net for digits, with no answer to what it asks; where that net has
nothing that it prunes, on one of residual branches.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedprune import measures, models, training
from fedprune.experiment import Data, Experiment
from fedprune.methods import OF_THE_MODEL, MethodError, build, find
from fedprune.methods.asking import Acts, begun, rehearsed
from fedprune.methods.axes import Axes, axes
from fedprune.methods.building import Prunable, prunable_of
from fedprune.pruning import masks
from fedprune.types import Holder, Local, Masks, Method, Model, Params

ROUNDS = 100
"""How far a method is rehearsed."""
_SHAPE = (1, 8, 8)
_GIVEN: Mapping[str, Any] = {"density": 0.05, "width": 0.5}
_BY_TYPE: Mapping[object, Any] = {int: 1, float: 0.5, bool: False, str: ""}


class Parameter(NamedTuple):
    """A key of ``[method]``."""

    name: str
    type: str
    default: int | float | bool | str | None
    """None where the experiment must say it."""


class Described(NamedTuple):
    """A method in words."""

    name: str
    family: str
    """Its folder; for a method of one's own its module."""
    paper: str
    """The first line of its file."""
    says: str
    """Its docstring."""
    parameters: tuple[Parameter, ...]
    axes: Axes
    starts: str
    acts: Mapping[str, tuple[str, ...]]
    """When it acts -> the kinds of evidence that it asks for then, none where weights and masks tell it enough."""
    asks: Mapping[str, str]
    """Each kind of evidence -> what it takes of a device."""
    trains: tuple[str, ...]
    """What of training is the method's own; nothing where all devices take plain masked SGD steps on one model."""


def described(name: str) -> Described:
    """A shipped or dotted method in words. MethodError for a name that is none."""
    function = find(name)
    module = sys.modules[function.__module__]
    folder, _, _ = module.__name__.removeprefix("fedprune.methods.").rpartition(".")
    shipped = module.__name__.startswith("fedprune.methods.")
    parameters = tuple(_parameters(function))
    missing = {each.name: _sample(each) for each in parameters if each.default is None}
    method, weights = _built({"name": name, **missing})
    model = method.start(weights)
    acts = rehearsed(method, weights, ROUNDS)
    kinds = [ask.kind for each in acts for ask in each.asks.values()]
    kinds += [ask.kind for ask in method.local.reports.values()]
    return Described(
        name,
        folder if shipped else module.__name__,
        (module.__doc__ or "").strip().partition("\n")[0],
        inspect.getdoc(function) or "",
        parameters,
        axes({each.name: each for each in parameters}, *_from_two(method, weights), acts, method.local),
        _starts(method, model),
        _when(acts),
        {kind: cost(kind) for kind in dict.fromkeys(kinds)},
        (*_own(method.local), *_parts(method, model)),
    )


def _from_two(method: Method, weights: Params) -> tuple[Model, Model]:
    """What it begins with from these weights, and from others."""
    return begun(method, weights)[0], begun(method, {name: np.flip(value) for name, value in weights.items()})[0]


def _starts(method: Method, model: Model) -> str:
    if method.pretraining is not Method._field_defaults["pretraining"]:
        return "sparse, pruned while the server pretrains"
    if not _all(model.masks):
        return "sparse"
    return "dense" if all(_all(part.masks) for part in model.parts.values()) else "narrow"


def _all(kept: Masks) -> bool:
    return all(mask.all() for mask in kept.values())


def cost(kind: str) -> str:
    """What a kind of evidence takes of a device, in words."""
    found = measures.find(kind)
    passes = "no pass" if not found.passes else "forward passes" if not found.backward else "a backward pass"
    whose = f"{found.of} examples" if found.whose is None else "examples that the method names"
    return f"{whose}, {passes}, {'private' if found.private else 'exact, so not private'}"


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    signature = inspect.signature(function, eval_str=True)
    keyed = [each for each in signature.parameters.values() if each.kind is each.KEYWORD_ONLY]
    return [
        Parameter(
            each.name, getattr(each.annotation, "__name__", ""), None if each.default is each.empty else each.default
        )
        for each in keyed
        if each.name not in OF_THE_MODEL
    ]


def _sample(parameter: Parameter) -> Any:
    types = {kind.__name__: value for kind, value in _BY_TYPE.items() if isinstance(kind, type)}
    return _GIVEN.get(parameter.name, types.get(parameter.type))


def _when(acts: Sequence[Acts]) -> dict[str, tuple[str, ...]]:
    rounds: dict[tuple[str, ...], list[int]] = {}
    for each in acts:
        asked = tuple(dict.fromkeys(ask.kind for ask in each.asks.values()))
        if asked or each.changes:
            rounds.setdefault(asked, []).append(each.round)
    return {in_words(found): asked for asked, found in rounds.items()}


def in_words(rounds: Sequence[int], last: int = ROUNDS) -> str:
    """Some rounds of ``last``, in order, in words: "round 0", "every 10 rounds from 10 to 90"."""
    steps = {after - before for before, after in itertools.pairwise(rounds)}
    if len(rounds) < 3 and last not in rounds:
        return f"round{'s' * (len(rounds) > 1)} {' and '.join(map(str, rounds))}"
    if len(steps) > 1:
        first, step = rounds[0], rounds[2] - rounds[1]
        if {after - before for before, after in itertools.pairwise(rounds[1:])} == {step}:
            return f"round {first}, then {in_words(rounds[1:], last)}"
        return f"{len(rounds)} rounds from {first} to {rounds[-1]}"
    step = steps.pop() if steps else 1
    often = "every round" if step == 1 else f"every {step} rounds"
    return f"{often} from {rounds[0]}" + (f" to {rounds[-1]}" if rounds[-1] + step <= last else " on")


def _own(local: Local) -> list[str]:
    said = {
        "a loss of its own": local.loss is not None,
        f"an optimiser of its own, {_many(local.optimiser.slots if local.optimiser else 0, 'slot')} a weight": (
            local.optimiser
        ),
        "chooses its examples": local.examples is not None,
        f"trains {_many(len(local.trains), 'tensor')} of the method's memory": local.trains,
        f"reads {_many(len(local.reads), 'tensor')} of the method's memory": local.reads,
        f"reports {', '.join(ask.kind for ask in local.reports.values())} of what it trained": local.reports,
        "sends back what the method says, in place of weights": local.sends is not None,
        "trains the model wrapped, such as rounded": local.around is not None,
        "trains smaller parts by turns": local.turns is not None,
        f"a step takes {local.passes} times a forward pass more": local.passes,
    }
    return [words for words, so in said.items() if so]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _parts(method: Method, model: Model) -> Iterator[str]:
    """Who trains what of the model, where that is not the same for all and always."""
    name = next(iter(model.parts), "")
    one, later, other = (
        method.part(model, Holder(device, name, round)).masks for device, round in ((0, 1), (0, 2), (1, 1))
    )
    if not masks.equal(one, later):
        yield "another part in every round"
    if not masks.equal(one, other):
        yield "a part of each device's own"
    if method.join is not Method._field_defaults["join"]:
        yield "joined in a way of its own"


def _built(table: Mapping[str, Any]) -> tuple[Method, Params]:
    """A method, of the first net that it takes, and that net's initial parameters and buffers."""

    def on(net: str) -> tuple[Method, Params]:
        prunable, weights = _net(net)
        return build(table, prunable.layers, 0, channels=prunable.channels), weights

    try:
        return on("digits_cnn")
    except MethodError:
        return on("resnet8")


@functools.cache
def _net(name: str) -> tuple[Prunable, Params]:
    """(what an experiment may prune of a net for digits, its initial parameters and buffers)."""
    net = models.build(name, _SHAPE, 10)
    return prunable_of(Experiment(Data(""), "", {}, ROUNDS), net, _SHAPE), training.state_of(net)
