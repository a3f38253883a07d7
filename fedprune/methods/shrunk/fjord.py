"""FjORD: ordered dropout, nested widths trained together on each device (Horváth et al., NeurIPS 2021, 2102.13451)."""

from collections.abc import Iterator

import numpy as np

from fedprune.graph.width import first_channels
from fedprune.methods.layers import Channels, Shapes, narrowed
from fedprune.types import Local, Method


def fjord(layers: Shapes, *, width: float, channels: Channels) -> Method:
    """The first ⌈width · C⌉ of the C channels of every group; ``width`` is the largest p of the tier (§3).

    A device draws, step by step, its own width or a smaller one nested in it, each as often (alg. 1). Distilling from
    the widest to the width drawn, which the paper leaves open to each device, is not done.
    """

    def turns(smaller: int, rng: np.random.Generator) -> Iterator[int]:
        while True:
            yield int(rng.integers(1 + smaller))

    return Method(narrowed(channels, lambda groups: first_channels(groups, width)), local=Local(turns=turns))
