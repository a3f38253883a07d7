"""FedRolex: a window of channels that rolls on by one a round (Alam et al., NeurIPS 2022, arXiv 2212.01548)."""

from fedprune.graph.width import width_masks, window
from fedprune.methods import Channels, Shapes
from fedprune.types import Evidence, Masks, Method, Pruner


def fedrolex(layers: Shapes, *, width: float, channels: Channels) -> Method:
    """⌈width · C⌉ channels from r mod C on, wrapping around, of the C channels of every group after round r (§3).

    Every tier's window starts at the same channel, so they nest, and over C rounds every channel is trained as often.
    Counts are rounded up, as in the authors' code.
    """
    groups, shapes = channels()

    def at(round: int) -> Masks:
        return width_masks(groups, shapes, window(groups, width, round))

    def update(masks: Masks, evidence: Evidence, step: int) -> Masks:
        return at(step)

    first = at(0)
    return Method(lambda weights: [first], Pruner(frozenset(), update), structured=True)
