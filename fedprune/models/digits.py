"""A small net for the 8x8 digits: seconds to train, deep enough to prune block by block."""

from collections import OrderedDict

from torch import nn

from fedprune.models import ModelError
from fedprune.models.layers import conv_bn, image_shape, mean_head

STAGES = ((16, 16), (24, 24), (24, 24))
"""Output channels of each stage's convolutions; a 2x2 max-pool ends each stage but the last."""


def digits_cnn(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a stem of 16 and three stages of two 3x3 convolutions: 24,298 parameters at (1, 8, 8), 10 classes."""
    channels, height, width = image_shape("digits_cnn", input_shape)
    if min(height, width) < 4:
        raise ModelError(f"digits_cnn: image {height}x{width} is too small for two halvings, expected at least 4x4")
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=conv_bn(channels, 16, (3, 3), size=(height, width)))
    inputs = 16
    for index, (first, second) in enumerate(STAGES):
        pool = 1 if index == len(STAGES) - 1 else 2
        size = (height >> index, width >> index)
        parts[f"stage{index + 1}"] = nn.Sequential(
            conv_bn(inputs, first, (3, 3), size=size), conv_bn(first, second, (3, 3), size=size, pool=pool)
        )
        inputs = second
    parts["head"] = mean_head(inputs, classes)
    return nn.Sequential(parts)
