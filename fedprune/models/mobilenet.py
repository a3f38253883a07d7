"""MobileNetV1 at a quarter of its width, the visual wake words net of MLPerf Tiny."""

from collections import OrderedDict

from torch import nn

from fedprune.models.layers import conv_bn, image_shape, mean_head, separable, shrunk

STAGES = (
    ((16, 1),),
    ((32, 2), (32, 1)),
    ((64, 2), (64, 1)),
    ((128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)),
    ((256, 2), (256, 1)),
)
"""(output channels, stride) of each depthwise-separable block, stage by stage."""


def mobilenet(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return MobileNetV1-0.25 (Howard et al. 2017): 208,112 weights at 2 classes, for an image of any size.

    At (3, 96, 96) it is the net of MLPerf Tiny, 7.49 M multiply-accumulates; at 32x32 the last stage sees 1x1.
    """
    channels, *extent = image_shape("mobilenet", input_shape)
    size = (extent[0], extent[1])
    inputs = 8
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=conv_bn(channels, inputs, (3, 3), size=size, stride=2))
    size = shrunk(size, 2)
    for index, stage in enumerate(STAGES):
        blocks = []
        for outputs, stride in stage:
            blocks.append(separable(inputs, outputs, size=size, stride=stride))
            size, inputs = shrunk(size, stride), outputs
        parts[f"stage{index + 1}"] = nn.Sequential(*blocks)
    parts["head"] = mean_head(inputs, classes)
    return nn.Sequential(parts)
