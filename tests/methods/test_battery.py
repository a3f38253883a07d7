"""The battery of laws over every method of the catalogue, and whether it finds what breaks them."""

import itertools
from collections.abc import Mapping
from unittest import mock

import battery
import numpy as np
import pytest

from fedprune import training
from fedprune.experiment import ExperimentError
from fedprune.methods import catalogue
from fedprune.methods.layers import Shapes, dense, masked, pruned_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Ask, Found, Local, Method, Model, Params


@pytest.mark.parametrize("law", battery.LAWS)
@pytest.mark.parametrize("name", catalogue())
def test_a_method_keeps_the_laws(name: str, law: str) -> None:
    battery.hold(law, name)


# what breaks them


def generous(layers: Shapes, *, density: float) -> Method:
    """Keeps a tenth more than it was asked for."""
    return pruned_once(layers, prune(criteria.magnitude, constant(1.1 * density), allocate=ranked()))


def copied(layers: Shapes, *, density: float) -> Method:
    """The magnitude answer under a name of its own."""
    return pruned_once(layers, prune(criteria.magnitude, constant(density), allocate=ranked()))


_calls = itertools.count()


def stateful(layers: Shapes, *, density: float) -> Method:
    """Remembers outside the model how often it has acted."""

    def act(model: Model, found: Found, round: int) -> Model:
        return model._replace(memory={"calls": np.asarray(next(_calls))})

    return generous(layers, density=density)._replace(act=act)


def careless(layers: Shapes, *, density: float) -> Method:
    """Takes it that somebody answers."""

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {} if round else {"grad": Ask("gradients", tuple(layers))}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        return masked(model, {name: np.abs(found["grad"][name]) > 0 for name in layers})

    return Method(dense(layers), asks=asks, act=act)


def unread(layers: Shapes) -> Method:
    """Its device half reads what it never put into memory."""
    return Method(dense(layers), local=Local(reads=("teacher",)))


def lasting(layers: Shapes, *, seed: int = 0) -> Method:
    """Takes a seed and draws nothing by it."""
    return Method(dense(layers))


def moving(layers: Shapes) -> Method:
    """Moves the weights that it is given."""

    def start(params: Params) -> Model:
        for name in layers:
            params[name][...] *= 0.5
        return Model(params)

    return Method(start)


@pytest.mark.parametrize(
    ("law", "name", "message"),
    [
        ("fits", "moving", "start moved its argument"),
        ("sizes", "generous", "keeps .* weights, not 0.2 of them"),
        ("seeds", "stateful", "memory/calls"),
        ("seeds", "lasting", "draws nothing"),
        ("resumes", "stateful", "memory/calls"),
        ("roads", "stateful", "memory/calls"),
        ("differs", "copied", "keeps what magnitude keeps"),
        ("unequal", "generous", "keeps .* weights"),
    ],
)
def test_what_breaks_a_law_is_found(law: str, name: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        battery.hold(law, f"{__name__}:{name}")


def test_a_method_that_needs_an_answer_or_a_memory_that_is_not_there_is_found() -> None:
    with pytest.raises(ExperimentError, match=r"test_battery\.py, line \d+, in .*KeyError: '1\.0\.weight'"):
        battery.hold("unanswered", f"{__name__}:careless")
    with pytest.raises(KeyError, match="teacher"):
        battery.hold("fits", f"{__name__}:unread")


def test_pruned_weights_that_a_step_moves_are_found() -> None:
    plainly = training.moved_plainly
    with (
        mock.patch.object(training, "moved_plainly", lambda params, masks, decayed: plainly(params, {}, decayed)),
        pytest.raises(AssertionError, match="a pruned weight is not 0"),
    ):
        battery.hold("zeros", "magnitude", floor=0.01)


@pytest.mark.parametrize("name", ["ssfl", "feddst"])
def test_the_battery_finds_a_method_to_which_it_matters_who_holds_what(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(battery, "APART", {})
    with pytest.raises(AssertionError):
        battery.hold("pooled", name)
