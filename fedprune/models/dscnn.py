"""DS-CNN, the keyword spotter of MLPerf Tiny."""

from collections import OrderedDict

from torch import nn

from fedprune.models.layers import conv_bn, image_shape, mean_head, separable, shrunk


def dscnn(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return DS-CNN small (Zhang et al. 2017, as in MLPerf Tiny): 22,016 weights at (1, 49, 10), 12 classes.

    A 10x4 convolution of stride 2 and 64 channels over (time, MFCC), four depthwise-separable blocks of 64, a global
    average pool, a linear layer; 2,656,768 multiply-accumulates. Dropout of the reference is left to training.
    """
    channels, *extent = image_shape("dscnn", input_shape)
    size = (extent[0], extent[1])
    stem = conv_bn(channels, 64, (10, 4), size=size, stride=2)
    size = shrunk(size, 2)
    stages = OrderedDict[str, nn.Module]((f"stage{index}", separable(64, 64, size=size)) for index in range(1, 5))
    return nn.Sequential(OrderedDict[str, nn.Module](stem=stem, **stages, head=mean_head(64, classes)))
