"""What a method asks of devices and when, found out by letting it decide on a model of zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fedprune.pruning import masks
from fedprune.types import Ask, Found, Method, Model, Params


class Acts(NamedTuple):
    """What a method does in a round."""

    round: int
    asks: Mapping[str, Ask]
    changes: bool
    """Whether masks, weights or memory are others afterwards."""


def rehearsed(method: Method, zeros: Params, rounds: int) -> list[Acts]:
    """A method's rounds from 0 to ``rounds`` over ``zeros``, every parameter and buffer, with no answer to any ask."""
    model, found = method.start(zeros), list[Acts]()
    for round in range(rounds + 1):
        new, asked = acted(method, model, round)
        found.append(Acts(round, asked, not _same(new, model)))
        model = new
    return found


def _same(one: Model, other: Model) -> bool:
    return one is other or (
        all(masks.equal(mine, its) for mine, its in zip(one[:3], other[:3], strict=True))
        and one.parts.keys() == other.parts.keys()
        and all(
            masks.equal(*pair) for name in one.parts for pair in zip(one.parts[name], other.parts[name], strict=True)
        )
    )


_MOST = 1000  # rounds, after which a method has shown what it asks


def asked_kinds(method: Method, zeros: Params, rounds: int) -> tuple[str, ...]:
    """The kinds of evidence that a method asks for in so many rounds, and that its devices report, in that order."""
    model, asks = begun(method, zeros)
    for round in range(1, min(rounds, _MOST) + 1):
        asks = [*asks, *method.asks(model, round, {}).values()]
    return tuple(dict.fromkeys(ask.kind for ask in [*asks, *method.local.reports.values()]))


def begun(method: Method, zeros: Params) -> tuple[Model, list[Ask]]:
    """(the model that training begins with, what is asked before), where nobody answers."""
    model, asked = acted(method, method.start(zeros), 0)
    return model, list(asked.values())


def acted(method: Method, model: Model, round: int) -> tuple[Model, dict[str, Ask]]:
    """(what a round makes of the model, what is asked before), where nobody answers."""
    asked = _asked(method, model, round)
    return method.act(model, _unanswered(asked), round), asked


def _asked(method: Method, model: Model, round: int) -> dict[str, Ask]:
    """All that it asks in a round, in turn."""
    asked: dict[str, Ask] = {}
    while True:
        wanted = method.asks(model, round, _unanswered(asked))
        new = {name: ask for name, ask in wanted.items() if name not in asked}
        if not new:
            return asked
        asked |= new


def _unanswered(asked: Mapping[str, Ask]) -> Found:
    return {name: {} for name in asked}
