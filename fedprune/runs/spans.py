"""How long the server pretrains and a method prunes, and where one does not fit into the other's time, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fedprune.experiment import Experiment
from fedprune.methods import parameters
from fedprune.pruning import masks
from fedprune.types import Ask, Method, Model

_EPOCHS = 10  # from the seed's weights, where the experiment says no number
_OFF = 0.01  # by how much what a method begins with may be denser than what is asked for, and nothing be said


def pretraining_epochs(experiment: Experiment, public: int) -> int:
    """How many epochs the server pretrains on so many examples of its own."""
    own = experiment.pretraining
    asked = (0 if own.weights else _EPOCHS) if own.epochs is None else own.epochs
    return asked if public else 0


def unmet(experiment: Experiment, method: Method, begun: Model, asks: Iterable[Ask], public: int) -> Iterator[str]:
    """A line for each time that an experiment or its method asks for and does not get.

    ``begun`` is what the method starts from, ``asks`` are its first ones, ``public`` is how many examples the server
    has.
    """
    yield from _in_pretraining(experiment, method, public)
    yield from _too_late(experiment, begun, asks)


def _in_pretraining(experiment: Experiment, method: Method, public: int) -> Iterator[str]:
    if experiment.pretraining.epochs and not public:
        yield "pretraining.epochs: the server has no example of its own, so nothing is pretrained"
    elif method.pretraining is not Method._field_defaults["pretraining"] and not pretraining_epochs(experiment, public):
        why = "no epoch of it" if public else "no example of its own"
        name = experiment.method["name"]
        yield f"method.name: {name} prunes while the server pretrains, which has {why}: it prunes at once"


def _too_late(experiment: Experiment, begun: Model, asks: Iterable[Ask]) -> Iterator[str]:
    takes = parameters(experiment.method["name"])
    given = {key: experiment.method.get(key, each.default) for key, each in takes.items()}
    if takes.keys() >= {"levels", "period"}:
        last = given["levels"] * given["period"] + given.get("rewind", 0)
        if last >= experiment.rounds:
            then = (
                "nothing trains what it leaves" if last == experiment.rounds else "training ends before all is pruned"
            )
            yield (
                f"method.levels: the last of {given['levels']} is after round {last}, of {experiment.rounds}: {then}; "
                f"lower levels or method.period"
            )
    if "stop" not in takes or any(ask.kind == "losses" for ask in asks):  # who chooses a candidate has pruned by then
        return
    stop = given["stop"]
    asked = float(experiment.method.get("density", 0))
    whole = all(mask.all() for part in begun.parts.values() for mask in part.masks.values())
    if stop > experiment.rounds and whole and masks.density(begun.masks) > asked * (1 + _OFF):
        yield f"method.stop: {stop} is after the last round, {experiment.rounds}: training ends before all is pruned"
