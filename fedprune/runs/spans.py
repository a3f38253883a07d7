"""How long the server pretrains and a method prunes, and where one does not fit into the other's time, in words."""

from __future__ import annotations

from collections.abc import Iterator

from fedprune.experiment import Experiment
from fedprune.methods import parameters
from fedprune.methods.asking import acted
from fedprune.pruning import masks
from fedprune.types import Method, Model

_EPOCHS = 10  # from the seed's weights, where the experiment says no number
_OFF = 0.01  # share of its weights that a method may lose in its rounds, and nothing be said


def pretraining_epochs(experiment: Experiment, public: int) -> int:
    """How many epochs the server pretrains on so many examples of its own."""
    own = experiment.pretraining
    asked = (0 if own.weights else _EPOCHS) if own.epochs is None else own.epochs
    return asked if public else 0


def unmet(experiment: Experiment, method: Method, begun: Model, public: int) -> Iterator[str]:
    """A line for each time that an experiment or its method asks for and does not get.

    ``begun`` is what the method starts from, ``public`` is how many examples the server has.
    """
    yield from _in_pretraining(experiment, method, public)
    yield from _too_late(experiment, method, begun)


def _in_pretraining(experiment: Experiment, method: Method, public: int) -> Iterator[str]:
    if experiment.pretraining.epochs and not public:
        yield "pretraining.epochs: the server has no example of its own, so nothing is pretrained"
    elif method.pretraining is not Method._field_defaults["pretraining"] and not pretraining_epochs(experiment, public):
        why = "no epoch of it" if public else "no example of its own"
        name = experiment.method["name"]
        yield f"method.name: {name} prunes while the server pretrains, which has {why}: it prunes at once"


def _too_late(experiment: Experiment, method: Method, begun: Model) -> Iterator[str]:
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
    stop = given.get("stop", 0)
    if stop > experiment.rounds and _prunes_until(method, begun, stop, given.get("period", 1)):
        yield f"method.stop: {stop} is after the last round, {experiment.rounds}: training ends before all is pruned"


def _prunes_until(method: Method, begun: Model, stop: int, period: int) -> bool:
    """Whether less is left after round ``stop`` than the method starts with: it need not be those that it swaps."""
    if begun.parts:
        return all(mask.all() for part in begun.parts.values() for mask in part.masks.values())
    model = begun
    try:
        for round in range(max(1, stop - period + 1), stop + 1):
            model, _ = acted(method, model, round)
    except Exception:  # one of somebody's own may count on the answers of devices; then it is not known
        return False
    return masks.density(model.masks) < masks.density(begun.masks) * (1 - _OFF)
