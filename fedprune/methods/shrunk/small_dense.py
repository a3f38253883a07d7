"""A small dense net of the same stored bytes: what a sparse one has to beat, and papers leave out."""

from math import prod

from fedprune.budgets.plan import largest
from fedprune.budgets.storage import smallest
from fedprune.graph.width import first_channels, width_masks
from fedprune.methods.layers import Channels, Shapes, density_in_range, narrowed
from fedprune.pruning.topk import kept_count
from fedprune.types import Method

_STEPS = 64


def small_dense(layers: Shapes, *, density: float, channels: Channels) -> Method:
    """The first ⌈width · C⌉ channels of every group, as wide as the bytes allow that the weights take at ``density``.

    Those are int8 weights in the smallest of the encodings of `budgets.storage`, positions included, of the model whose
    prunable layers each keep ``density`` of theirs; the narrow model's int8 weights, which need no positions, take no
    more. Biases and batch norms are left out on both sides, of which the narrow one has fewer. Widths are 64ths; where
    even the least takes more, it is that. Channels are cut from the weights that the run starts from, as HeteroFL does,
    which is no worse a beginning than a sparse mask's: the same weights, and no search.
    """
    density_in_range(density)
    groups, shapes = channels()
    sizes = {name: prod(shape) for name, shape in shapes.items() if len(shape) > 1}
    allowed = smallest(sizes, {name: kept_count(density, sizes[name]) for name in layers})[1]

    def fits(width: float) -> bool:
        masks = width_masks(groups, shapes, first_channels(groups, width))
        return sum(int(masks[name].sum()) if name in masks else size for name, size in sizes.items()) <= allowed

    widths = tuple(step / _STEPS for step in range(1, _STEPS + 1))
    width = largest(widths, fits) or widths[0]
    return Method(narrowed(channels, lambda groups: first_channels(groups, width)))
