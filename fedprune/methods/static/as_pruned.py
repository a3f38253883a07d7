"""As pruned: the net as it comes, with the weights that are 0 held at 0 (the fixed mask of Liu et al., ICLR 2019)."""

from fedprune.methods.layers import Shapes, masked
from fedprune.types import Method, Model, Params


def as_pruned(layers: Shapes) -> Method:
    """Train what is not 0 in the weights that a run begins with, and keep the rest at 0, throughout.

    For a net that was pruned before (`pretraining.weights`), and for the mask of another run with fresh weights
    (`pretraining.masks`): Scratch-E and Scratch-B of Rethinking the Value of Network Pruning (arXiv 1810.05270, §3).
    """

    def start(params: Params) -> Model:
        return masked(Model(params), {name: params[name] != 0 for name in layers})

    return Method(start)
