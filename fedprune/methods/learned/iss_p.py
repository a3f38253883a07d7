"""ISS-P: the smallest weights shrink step by step until they are pruned (Wang et al., 2023, arXiv 2303.09650)."""

from fedprune.methods.layers import Shapes, adjusted, dense, density_in_range
from fedprune.pruning import criteria
from fedprune.pruning.pruners import every, prune
from fedprune.pruning.schedules import constant
from fedprune.training.shrinking import shrinking
from fedprune.types import Local, Method


def iss_p(layers: Shapes, *, density: float, alpha: float = 0.95, stop: int = 10) -> Method:
    """After each local step multiply the least |θ| of every layer by ``alpha``, all but ``density`` of it (§3.2 (m)).

    No mask travels, nor anything but weights: each device ranks its own at every step, and a weight that grows again
    is no longer among the least. The server's average is what they rank next; after round ``stop`` it keeps the
    largest |θ| of each layer for good, and rounds after that are the paper's fine-tuning. (m): ``alpha``, for
    thousands of steps. Not done: Adam, since steps are the experiment's SGD, whose momentum a weight keeps while it
    shrinks. The paper's nets enlarge pictures; nothing in it is about them alone.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is outside [0, 1]")
    if stop < 1:
        raise ValueError(f"stop {stop} is below 1")
    once = every(stop, prune(criteria.magnitude, constant(density_in_range(density))), until=stop)
    asks, act = adjusted(once)
    local = Local(optimiser=shrinking(tuple(layers), density, alpha, stop))
    return Method(dense(layers), local=local, asks=asks, act=act)
