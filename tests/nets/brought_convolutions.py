"""Convolutional nets as people write them: norms, activations, residuals, groups, pooling, scaling."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Build = Callable[..., nn.Module]


def _head(width: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def _normed(norm: Callable[[int], nn.Module], activation: Callable[[], nn.Module] = nn.ReLU) -> Build:
    """Three convolutions, each with a norm and an activation."""

    def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
        widths = (input_shape[0], 8, 12, 12)
        layers: list[nn.Module] = []
        for at, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, 1 + (at == 1), 1), norm(after), activation()]
        return nn.Sequential(*layers, *_head(12, classes))

    return build


batch_norm = _normed(nn.BatchNorm2d)
group_norm = _normed(lambda width: nn.GroupNorm(4, width))
instance_norm = _normed(lambda width: nn.InstanceNorm2d(width, affine=True))
layer_norm = _normed(lambda width: nn.GroupNorm(1, width))
no_norm = _normed(lambda width: nn.Identity())
relu6 = _normed(nn.BatchNorm2d, nn.ReLU6)
leaky_relu = _normed(nn.BatchNorm2d, nn.LeakyReLU)
prelu = _normed(nn.BatchNorm2d, nn.PReLU)
elu = _normed(nn.BatchNorm2d, nn.ELU)
gelu = _normed(nn.BatchNorm2d, nn.GELU)
silu = _normed(nn.BatchNorm2d, nn.SiLU)
hard_swish = _normed(nn.BatchNorm2d, nn.Hardswish)
hard_sigmoid = _normed(nn.BatchNorm2d, nn.Hardsigmoid)
tanh = _normed(nn.BatchNorm2d, nn.Tanh)
sigmoid = _normed(nn.BatchNorm2d, nn.Sigmoid)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def plain(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """LeNet's shape: pooled twice, then flattened into linear layers."""
    channels, height, width = input_shape
    pooled = [nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()]
    flat = 8 * ((height // 2 - 2) // 2) * ((width // 2 - 2) // 2)
    ends = [nn.Flatten(), nn.Dropout(0.3), nn.Linear(flat, 16), nn.ReLU(), nn.Linear(16, classes)]
    return nn.Sequential(*pooled, nn.AvgPool2d(2), *ends)


class Net(nn.Module):
    """Modules by name, and what is done with them."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.does = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


def residual(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A block before its activation, its sum normed after."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = x + net.second(net.first(x))
        x = net.down(x) + net.wide(x)
        return net.out(F.relu(net.norm(x)).mean((2, 3)))

    return Net(
        forward, stem=conv(input_shape[0], 8), first=conv(8, 8), second=nn.Conv2d(8, 8, 3, padding=1),
        down=nn.Conv2d(8, 12, 1, 2), wide=conv(8, 12, 3, 2), norm=nn.BatchNorm2d(12), out=nn.Linear(12, classes),
    )  # fmt: skip


def dense(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Every layer reads all before it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        for layer in (net.one, net.two, net.three):
            x = torch.cat([x, layer(x)], 1)
        return net.out(net.last(F.avg_pool2d(x, 2)).flatten(2).mean(2))

    def layer(width: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3, padding=1, bias=False))

    return Net(
        forward, stem=nn.Conv2d(input_shape[0], 8, 3, padding=1), one=layer(8), two=layer(12), three=layer(16),
        last=conv(20, 12, 1), out=nn.Linear(12, classes),
    )  # fmt: skip


def grouped(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """ResNeXt's: a convolution of groups between two of one pixel."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.out(F.relu(x + net.block(x)).amax((2, 3)))

    block = nn.Sequential(conv(12, 16, 1), conv(16, 16, groups=4), nn.Conv2d(16, 12, 1), nn.BatchNorm2d(12))
    return Net(forward, stem=conv(input_shape[0], 12), block=block, out=nn.Linear(12, classes))


def separable(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """MobileNet's first design, with channels shuffled between two groups."""
    blocks = [
        conv(input_shape[0], 8), conv(8, 8, groups=8), nn.Conv2d(8, 16, 1, groups=2), nn.ChannelShuffle(2), nn.ReLU6(),
        conv(16, 16, 3, 2, 16), conv(16, 16, 1),
    ]  # fmt: skip
    return nn.Sequential(*blocks, *_head(16, classes))


def dilated(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Reflection around the picture, a dilated convolution, and pooling to windows of unequal size."""
    layers = [
        nn.ReflectionPad2d(1), nn.Conv2d(input_shape[0], 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=2, dilation=2), nn.ReLU(), nn.AdaptiveAvgPool2d(5), nn.Flatten(),
    ]  # fmt: skip
    return nn.Sequential(*layers, nn.Linear(12 * 25, classes))


def shuffled_pixels(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Space to depth, a convolution, and depth to space again."""
    unshuffled = [nn.PixelUnshuffle(2), conv(4 * input_shape[0], 16), nn.PixelShuffle(2), conv(4, 12)]
    return nn.Sequential(*unshuffled, *_head(12, classes))


def _unet(up: Callable[[int, int], nn.Module]) -> Build:
    def forward(net: Any, x: Tensor) -> Tensor:
        high = net.down(x)
        low = net.deep(F.max_pool2d(high, 2))
        return net.out(net.joined(torch.cat([net.up(low), high], 1)).mean((2, 3)))

    def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return Net(
            forward, down=conv(input_shape[0], 8), deep=conv(8, 16), up=up(16, 8), joined=conv(16, 12),
            out=nn.Linear(12, classes),
        )  # fmt: skip

    return build


unet_transposed = _unet(lambda before, after: nn.ConvTranspose2d(before, after, 2, 2))
unet_bilinear = _unet(
    lambda before, after: nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(before, after, 3, padding=1)
    )
)
unet_nearest = _unet(
    lambda before, after: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 1), nn.ReLU())
)


def signal_conv(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One-dimensional, strided."""
    layers = [nn.Conv1d(input_shape[0], 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)]
    layers += [nn.Conv1d(8, 12, 3, 2, 1), nn.BatchNorm1d(12), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, classes))


def temporal(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Dilated one-dimensional convolutions with residuals, of which the last step is read."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.first(F.pad(x, (2, 0))))
        x = F.relu(x + net.second(F.pad(x, (4, 0))))
        return net.out(x[:, :, -1])

    first, second = nn.Conv1d(input_shape[0], 10, 3), nn.Conv1d(10, 10, 3, dilation=2)
    return Net(forward, first=first, second=second, out=nn.Linear(10, classes))
