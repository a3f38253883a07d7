"""Layer-LTH: residual branches that a net hardly sees go before training (Jordao et al., 2023, arXiv 2301.10835)."""

from collections.abc import Mapping

import numpy as np

from fedprune.graph.branches import branches
from fedprune.measures.similarity import Without
from fedprune.methods.layers import Channels, Shapes, dense, from_to, masked
from fedprune.methods.rewinding import output_layer
from fedprune.pruning import masks
from fedprune.types import Ask, Found, Method, Model


def layer_lth(layers: Shapes, *, remove: int = 1, examples: int = 256, channels: Channels) -> Method:
    """Remove ``remove`` residual branches, one after the other: each the one without which features change least.

    The score of a branch is 1 − CKA (3) between what the last layer reads with all branches and without it and those
    that are gone; what is left is trained (m). Devices send centred sums of products of at most so many ``examples``,
    merged exactly, an ask a branch. A branch is two layers or more beside a shortcut (`graph.branches`). Its weights
    are 0: the native trainer takes no time for them, and files hold what is left of its batch norm or bias alone, a
    number a channel. Where nobody answers, no branch goes. Not done: weights drawn anew for it, since a run starts from
    those that it has.
    """
    inside = {last: [name for name in names if name in layers] for last, names in branches(channels()[0]).items()}
    inside = {last: names for last, names in inside.items() if f"{last}.weight" in names}
    if not inside:
        raise ValueError("the model has no branch of two or more layers beside a shortcut that can be followed")
    *_, (last_layer, shape) = ((name, shape) for name, shape in channels()[1].items() if len(shape) > 1)
    if len(shape) != 2:
        raise ValueError(f"features are compared before a linear last layer, and {last_layer} is none")
    from_to("remove", remove, 1, len(inside), "the model's branches")
    from_to("examples", examples, 1)

    def gone(found: Found) -> list[str]:
        lost: list[str] = []
        for step in range(remove):
            if not found.get(f"branch{step}"):
                break
            left = [last for last in inside if last not in lost]
            lost.append(left[int(np.argmax(found[f"branch{step}"]["similarity"]))])
        return lost

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        lost = gone(found)
        if round or len(lost) == remove or f"branch{len(lost)}" in found:
            return {}
        before = [name for last in lost for name in inside[last]]
        candidates = [(*before, *names) for last, names in inside.items() if last not in lost]
        return {f"branch{len(lost)}": Ask("similarity", Without(candidates, output_layer(model.params), examples))}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        lost = {name for last in gone(found) for name in inside[last]}
        return masked(model, {name: mask & (name not in lost) for name, mask in masks.ones_like(layers).items()})

    return Method(dense(layers), asks=asks, act=act)
