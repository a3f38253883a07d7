"""In words, before anything is trained: what of a model is pruned, what stays as it is, and what that leaves."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from fedprune.experiment import Experiment
from fedprune.methods import parameters
from fedprune.methods.building import Prunable
from fedprune.models.as_is import shown
from fedprune.pruning.parts import is_statistic
from fedprune.types import Model

_OFF = 0.01  # by how much what is left may differ from the density asked for, and nothing be said


def in_words(experiment: Experiment, what: Prunable, begun: Model) -> Iterator[str]:
    """Lines for whoever starts a run: which layers are pruned and by which keys, and a density that cannot be met.

    ``begun`` is what the method starts from.
    """
    sizes = {name: prod(shape) for name, shape in what.every.items()}
    total = sum(sizes.values())
    pruned = sum(sizes[name] for name in what.layers)
    takes = parameters(experiment.method["name"])
    whole = "channels" in takes and not begun.masks  # who has masks of weights wants channels for something else
    asked = experiment.method.get("density")
    if "remove" in takes:
        yield "pruned: whole branches of layers, before training"
    elif whole:
        groups, _ = what.channels()
        among = {member.name for group in groups for member in group.members} & sizes.keys()
        yield f"pruned: whole channels, in {len(among)} of {len(sizes)} layers; coupled groups of them: {len(groups)}"
    else:
        share = f"{len(what.layers)} of {len(sizes)} layers, {pruned / total:.1%} of their weights"
        yield f"pruned: {share}; {'; '.join(_why(experiment, what))}"
    if isinstance(asked, int | float) and not isinstance(asked, bool) and not whole:
        left = 1 - (1 - asked) * pruned / total
        if left > asked + _OFF:
            yield (
                f"density {asked:g} is that of the pruned layers: the others are dense, so {left:.3g} of all layers' "
                f"weights is the least that is left{_remedy(experiment, what)}"
            )
    names = [name for name in what.frozen if not is_statistic(name)]
    if names:
        at_rest = "; their batch norms go by their running statistics" if len(names) < len(what.frozen) else ""
        yield f"frozen, neither trained nor pruned: {shown(names)}{at_rest}"
    if what.unread:
        yield f"without a part in the output, left as they are: {shown(what.unread)}"


def _why(experiment: Experiment, what: Prunable) -> Iterator[str]:
    nothing_between = len(what.layers) == len({what.first, what.last} - {""})
    reason = "nothing lies between" if nothing_between else "it holds most of the weights"
    for place, name, asked in _ends(experiment, what):
        dense = name in what.dense
        why = f", since {reason}" if asked is None and not dense else ""
        yield f"the {place}, {name}, is {'dense' if dense else 'pruned too'}{why} (prune_{place})"
    others = [name for name in what.every if name not in {*what.layers, *what.dense, *what.frozen}]
    if others:
        yield f"depthwise layers are dense ({len(others)}, prune_depthwise)"


def _ends(experiment: Experiment, what: Prunable) -> Iterator[tuple[str, str, bool | None]]:
    """("first" or "last", its layer, whether it is asked to be pruned) of each that could be."""
    if what.first:
        yield "first", what.first, experiment.prune_first
    if what.last and what.last != what.first:
        yield "last", what.last, experiment.prune_last


def _remedy(experiment: Experiment, what: Prunable) -> str:
    dense = [f"prune_{place} = true" for place, name, _ in _ends(experiment, what) if name in what.dense]
    return f"; with {' and '.join(dense)} it is less" if dense else ""
