"""In words, before anything is trained: what of a model is pruned, what stays as it is, and what that leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

from fedprune.experiment import Experiment
from fedprune.methods.building import Prunable
from fedprune.models.as_is import shown

_OFF = 0.01  # by how much what is left may differ from the density asked for, and nothing be said


def in_words(experiment: Experiment, what: Prunable) -> Iterator[str]:
    """Lines for whoever starts a run: which layers are pruned and by which keys, and a density that cannot be met."""
    sizes = {name: prod(shape) for name, shape in what.every.items()}
    total = sum(sizes.values())
    pruned = sum(sizes[name] for name in what.layers)
    share = f"{len(what.layers)} of {len(sizes)} layers, {pruned / total:.1%} of their weights"
    yield f"pruned: {share}; {'; '.join(_why(experiment, what))}"
    asked = experiment.method.get("density")
    if isinstance(asked, int | float) and not isinstance(asked, bool):
        left = 1 - (1 - asked) * pruned / total
        if left > asked + _OFF:
            yield (
                f"density {asked:g} is that of the pruned layers: the others are dense, so {left:.3g} of all layers' "
                f"weights is the least that is left{_remedy(experiment, what)}"
            )
    names = [name for name in what.frozen if not _statistic(name)]
    if names:
        at_rest = "; their batch norms go by their running statistics" if len(names) < len(what.frozen) else ""
        yield f"frozen, neither trained nor pruned: {shown(names)}{at_rest}"
    if what.unread:
        yield f"without a part in the output, left as they are: {shown(what.unread)}"


def _why(experiment: Experiment, what: Prunable) -> Iterator[str]:
    keys = {"prune_first": experiment.prune_first, "prune_last": experiment.prune_last}
    named = ", ".join(f"{key} = {str(value).lower()}" if value is not None else key for key, value in keys.items())
    if what.dense:
        yield f"dense: {_ends(what.dense)} ({named})"
    pruned = [name for name in what.ends if name not in what.dense]
    if pruned and all(value is None for value in keys.values()):
        why = "hold" if len(pruned) > 1 else "holds"
        yield f"{_ends(pruned)} too, which {why} most of the weights ({named})"
    elif pruned:
        yield f"{_ends(pruned)} too ({named})"
    others = [name for name in what.every if name not in {*what.layers, *what.dense, *what.frozen}]
    if others:
        yield f"depthwise layers are dense ({len(others)}, prune_depthwise)"


def _ends(names: Iterable[str]) -> str:
    return " and ".join(names)


def _remedy(experiment: Experiment, what: Prunable) -> str:
    keys = [key for key, value in (("prune_first", experiment.prune_first), ("prune_last", experiment.prune_last))]
    asked = " and ".join(f"{key} = true" for key in keys)
    return f"; {asked} prunes {_ends(what.dense)}" if what.dense else ""


def _statistic(name: str) -> bool:
    return name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))
