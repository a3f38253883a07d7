"""DIMAP: weights that compare within modules (He & Zhou, Module-Aware Pruning, ICLR 2024, arXiv 2404.13648)."""

from fedprune.methods.layers import Shapes, density_in_range, pruned_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import by_module
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Method


def dimap(layers: Shapes, *, density: float) -> Method:
    """Keep the largest θ² / Σ v² of all layers together, over the v of its module with |v| ≥ |θ| (eq. 6 (m)), at once.

    A module is the attention of a stage, or all else of it (`module_of`); the score is what outputs are distorted by
    without a weight, as a part of what the module gives, so that modules of other scales compare. No data is seen, and
    devices are asked for nothing. (m): that stages, not blocks, make modules. Not done: patch merging apart.
    """
    return pruned_once(
        layers, prune(criteria.magnitude, constant(density_in_range(density)), allocate=by_module(module_of))
    )


def module_of(name: str) -> str:
    """The module of a weight, by its name: up to the first part with a number in it, and whether it is of an attention.

    >>> module_of("stages.0.blocks.1.attn.qkv.weight"), module_of("stages.0.blocks.1.mlp.fc1.weight")
    ('stages.0/attention', 'stages.0')
    """
    *path, _ = name.split(".")
    last = next((at for at, part in enumerate(path) if any(map(str.isdigit, part))), 0)
    attends = any("attn" in part or "attention" in part for part in path)
    return ".".join(path[: last + 1]) + "/attention" * attends
