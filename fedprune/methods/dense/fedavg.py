"""FedAvg: no pruning at all, the dense reference (McMahan et al., 2017)."""

from fedprune.methods.layers import Shapes
from fedprune.types import Method, Model


def fedavg(layers: Shapes) -> Method:
    """Dense training; devices' models are averaged by their number of examples (alg. 1)."""
    return Method(Model)
