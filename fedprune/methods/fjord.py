"""FjORD: ordered dropout, nested widths trained together on each device (Horváth et al., NeurIPS 2021, 2102.13451)."""

from fedprune.graph.width import first_channels, width_masks
from fedprune.methods import Channels, Shapes
from fedprune.types import Method


def fjord(layers: Shapes, *, width: float, channels: Channels) -> Method:
    """The first ⌈width · C⌉ of the C channels of every group; ``width`` is the largest p of the tier (§3).

    A device draws, step by step, its own width or a smaller one nested in it, each as often (alg. 1). Distilling from
    the widest to the width drawn, which the paper leaves open to each device, is not done.
    """
    groups, shapes = channels()
    kept = width_masks(groups, shapes, first_channels(groups, width))
    return Method(lambda weights: [kept], structured=True, ordered_dropout=True)
