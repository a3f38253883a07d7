"""VGG-11 with batch norm and a single linear head, for images of CIFAR's size."""

from collections import OrderedDict

from torch import nn

from fedprune.models import ModelError
from fedprune.models.layers import conv_bn, image_shape, mean_head

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Output channels of each stage's convolutions; a 2x2 max-pool ends each stage."""


def vgg11(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return VGG-11-BN (Simonyan & Zisserman 2015, configuration A): 9,228,362 parameters at 10 classes.

    The paper's three fully connected layers are one, as is usual at 32x32. Convolutions have no bias before batch
    norm (with 2,752 redundant ones it would be 9,231,114). The image is at least 32x32: five poolings halve it.
    """
    inputs, height, width = image_shape("vgg11", input_shape)
    if min(height, width) < 32:
        raise ModelError(f"vgg11: image {height}x{width} is too small for five halvings, expected at least 32x32")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for index, stage in enumerate(STAGES):
        layers = []
        for position, outputs in enumerate(stage):
            pool = 2 if position == len(stage) - 1 else 1
            layers.append(conv_bn(inputs, outputs, (3, 3), size=(height, width), pool=pool))
            inputs = outputs
        height, width = height // 2, width // 2
        # The single convolution before the first pooling is this net's stem.
        parts["stem" if index == 0 else f"stage{index}"] = nn.Sequential(*layers)
    parts["head"] = mean_head(inputs, classes)
    return nn.Sequential(parts)
