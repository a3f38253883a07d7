"""HeteroFL: a narrower tier trains the first channels of every layer (Diao et al., ICLR 2021, arXiv 2010.01264)."""

from fedprune.graph.width import first_channels
from fedprune.methods.layers import Channels, Shapes, narrowed
from fedprune.types import Method


def heterofl(layers: Shapes, *, width: float, channels: Channels) -> Method:
    """The first ⌈width · C⌉ of the C channels of every group, in every round (§3; widths 1, 1/2, … 1/16 there).

    The server's mean of each weight over the tiers that hold it is the paper's, and so are nested widths. Not done: its
    scaler (outputs divided by the width while training, which the batch norm that follows undoes); its static batch
    norm, whose statistics are queried once training is over, where here each tier keeps its own, sent as weights are;
    and masking the logits of classes that a device has not.
    """
    return Method(narrowed(channels, lambda groups: first_channels(groups, width)))
