"""Designs of torchvision, their channels cut: MobileNet V2 and V3, ShuffleNet V2, SqueezeNet, ResNet-18, ConvNeXt."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
) -> nn.Sequential:  # fmt: skip
    """Convolution, batch norm, activation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), *([activation()] if activation else []))


class Excite(nn.Module):
    """Squeeze and excitation: each channel by a share that the means of all decide."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.up = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(self.up(F.relu(self.down(self.pool(x))))) * x


class Inverted(nn.Module):
    """An inverted residual: wide inside, thin outside, the last convolution linear."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, kernel: int, stride: int, activation: Callable[[], nn.Module],
        excited: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        grown = [conv(inputs, inner, 1, activation=activation)] if inner != inputs else []
        deep = conv(inner, inner, kernel, stride, inner, activation)
        gate = [Excite(inner, max(inner // 4, 4))] if excited else []
        self.body = nn.Sequential(*grown, deep, *gate, conv(inner, outputs, 1, activation=None))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class Classified(nn.Module):
    """Features, their means, a classifier."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1))


def mobilenet_v2(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    six = nn.ReLU6
    features = nn.Sequential(
        conv(input_shape[0], 8, 3, 2, activation=six), Inverted(8, 8, 6, 3, 1, six), Inverted(6, 24, 8, 3, 2, six),
        Inverted(8, 32, 8, 3, 1, six), conv(8, 24, 1, activation=six),
    )  # fmt: skip
    return Classified(features, nn.Sequential(nn.Dropout(0.2), nn.Linear(24, classes)))


def mobilenet_v3(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    hard = nn.Hardswish
    features = nn.Sequential(
        conv(input_shape[0], 8, 3, 2, activation=hard), Inverted(8, 8, 8, 3, 1, nn.ReLU, True),
        Inverted(8, 24, 12, 5, 2, hard, True), Inverted(12, 24, 12, 5, 1, hard, True), conv(12, 32, 1, activation=hard),
    )  # fmt: skip
    ends = [nn.Linear(32, 24), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True), nn.Linear(24, classes)]
    return Classified(features, nn.Sequential(*ends))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """One half of the channels passes by, or, where the map shrinks, both go their own way; then they are shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        self.beside = nn.Sequential()
        if stride > 1:
            self.beside = nn.Sequential(conv(inputs, inputs, 3, stride, inputs, activation=None), conv(inputs, half, 1))
        self.through = nn.Sequential(
            conv(inputs if stride > 1 else half, half, 1), conv(half, half, 3, stride, half, activation=None),
            conv(half, half, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            one, other = x.chunk(2, dim=1)
            return _shuffle(torch.cat((one, self.through(other)), dim=1), 2)
        return _shuffle(torch.cat((self.beside(x), self.through(x)), dim=1), 2)


def shufflenet_v2(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    features = nn.Sequential(
        conv(input_shape[0], 8), nn.MaxPool2d(3, 2, 1), ShuffleUnit(8, 16, 2), ShuffleUnit(16, 16, 1),
        ShuffleUnit(16, 16, 1), conv(16, 24, 1),
    )  # fmt: skip
    return Classified(features, nn.Linear(24, classes))


class Fire(nn.Module):
    """Squeezed to few channels, expanded by two kernels side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def squeezenet(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    last = nn.Conv2d(16, classes, 1)
    nn.init.constant_(last.bias, 1.0)  # else the last ReLU is dead after a round
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 12, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(12, 4, 8),
        Fire(16, 4, 8), nn.Dropout(0.2), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(),
    )  # fmt: skip


class Basic(nn.Module):
    """ResNet's block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = conv(inputs, outputs, 3, stride), conv(outputs, outputs, activation=None)
        self.downsample = conv(inputs, outputs, 1, stride, activation=None) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.two(self.one(x))
        out += identity
        return F.relu(out, inplace=True)


def resnet18(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    blocks, before = [], 6
    for after in (6, 8, 10, 12):
        blocks += [Basic(before, after, 1 + (after != before)), Basic(after, after, 1)]
        before = after
    stem = [conv(input_shape[0], 6, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return Classified(nn.Sequential(*stem, *blocks), nn.Linear(12, classes))


class NextBlock(nn.Module):
    """ConvNeXt's block: a wide depthwise kernel, then linear layers over channels that lie last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.grow, self.shrink = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.scale * self.shrink(F.gelu(self.grow(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    features = nn.Sequential(nn.Conv2d(input_shape[0], 10, 2, 2), NextBlock(10), NextBlock(10))
    return Classified(features, nn.Sequential(nn.LayerNorm(10), nn.Linear(10, classes)))
