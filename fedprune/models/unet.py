"""A small U-Net, for a class of each pixel."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fedprune.models import ModelError
from fedprune.models.layers import conv_bn, image_shape

WIDTHS = (12, 24, 48)
"""Channels at the picture's size, at half of it, at a quarter."""


def shapes_unet(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a U-Net for (channels, height, width) -> (classes, height, width): 66,268 parameters at 3 and 4.

    Two 3x3 convolutions with batch norm at each of three sizes, a max-pool between them; a transposed convolution
    brings each back to the size before, where it joins what was there (Ronneberger et al. 2015, with padding). Height
    and width are multiples of 4.
    """
    channels, height, width = image_shape("shapes_unet", input_shape)
    if height % 4 or width % 4:
        raise ModelError(f"shapes_unet: image {height}x{width} cannot be halved twice, expected multiples of 4")
    return _UNet(channels, (height, width), classes)


class _UNet(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        whole, half, quarter = [(size[0] >> halvings, size[1] >> halvings) for halvings in range(3)]
        first, second, third = WIDTHS
        self.stem = _twice(channels, first, whole)
        self.stage1 = nn.Sequential(OrderedDict(pool=nn.MaxPool2d(2), convs=_twice(first, second, half)))
        self.stage2 = nn.Sequential(OrderedDict(pool=nn.MaxPool2d(2), convs=_twice(second, third, quarter)))
        self.stage3, self.stage4 = _Joined(third, second, half), _Joined(second, first, whole)
        self.head = nn.Conv2d(first, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.stem(x)
        half = self.stage1(whole)
        logits: Tensor = self.head(self.stage4(self.stage3(self.stage2(half), half), whole))
        return logits


class _Joined(nn.Module):
    """What comes from below at twice its size, beside what was there before, through two convolutions."""

    def __init__(self, below: int, here: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.up, self.convs = nn.ConvTranspose2d(below, here, 2, 2), _twice(2 * here, here, size)

    def forward(self, below: Tensor, before: Tensor) -> Tensor:
        made: Tensor = self.convs(torch.cat([self.up(below), before], 1))
        return made


def _twice(inputs: int, outputs: int, size: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(conv_bn(inputs, outputs, (3, 3), size=size), conv_bn(outputs, outputs, (3, 3), size=size))
