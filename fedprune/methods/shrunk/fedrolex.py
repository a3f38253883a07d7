"""FedRolex: a window of channels that rolls on by one a round (Alam et al., NeurIPS 2022, arXiv 2212.01548)."""

from fedprune.graph.width import width_masks, window
from fedprune.methods.layers import Channels, Shapes, narrowed
from fedprune.types import Holder, Method, Model, Part


def fedrolex(layers: Shapes, *, width: float, channels: Channels) -> Method:
    """⌈width · C⌉ channels from (r − 1) mod C on, wrapping around, of the C channels of every group in round r (§3).

    Every tier's window starts at the same channel, so they nest, and over C rounds every channel is trained as often.
    Counts are rounded up, as in the authors' code.
    """
    groups, shapes = channels()

    def part(model: Model, holder: Holder) -> Part:
        own = width_masks(groups, shapes, window(groups, width, max(0, holder.round - 1)))
        return model.parts[holder.part]._replace(masks=own)

    return Method(narrowed(channels, lambda groups: window(groups, width, 0)), part)
