"""KD-DP: a pruned data set, made up for by a teacher's soft targets (Ben-Baruch et al., 2024, arXiv 2403.07854)."""

from typing import Any

from fedprune.counter_rng import uniforms
from fedprune.methods.layers import Channels, Shapes, density_in_range, fractions_in_range, largest, pruned_once
from fedprune.methods.rewinding import named
from fedprune.pruning.topk import kept_count, top_k
from fedprune.training.losses import distilled
from fedprune.types import Local, Method, Model, Params, Tensor


def kd_dp(
    layers: Shapes, *, density: float, fraction: float = 0.5, alpha_of_all: float = 0.5, alpha_of_none: float = 1.0,
    temperature: float = 4.0, seed: int = 0, channels: Channels,
) -> Method:  # fmt: skip
    """Train on a random ``fraction`` f of each device's examples by (1 − α(f)) CE + α(f) T² KL to the dense model (§3).

    The teacher is what the run starts from, all of it, while the weights that train keep the largest |θ| of all layers;
    the examples are the same in all rounds. α falls with f along a line from ``alpha_of_none`` to ``alpha_of_all``,
    which may not be above it: fewer examples, more of the teacher. (m): that line and T, which the paper tunes for each
    f. Not done: choosing examples by a score, which the paper finds to be no better than at random.
    """
    density_in_range(density)
    fractions_in_range(alpha_of_all=alpha_of_all, alpha_of_none=alpha_of_none)
    if not 0 < fraction <= 1 or alpha_of_all > alpha_of_none:
        raise ValueError(f"fraction {fraction} is outside (0, 1], or alpha_of_all is above alpha_of_none")
    once = pruned_once(layers, largest(density))
    teacher = tuple(f"teacher/{name}" for name in channels()[1])
    alpha = alpha_of_none + (alpha_of_all - alpha_of_none) * fraction

    def start(params: Params) -> Model:
        return once.start(params)._replace(memory=named("teacher/", params))

    def examples(net: Any, params: Any, inputs: Any, labels: Tensor, *rest: Any) -> Tensor:
        order = uniforms(seed, "examples", len(labels))  # by position: the same in all rounds, of any data
        return top_k(order, kept_count(fraction, len(labels))).nonzero()[0]

    loss = distilled(alpha=alpha, temperature=temperature)
    return Method(start, local=Local(loss, examples=examples, reads=teacher, classes=True, passes=1))
