"""Small nets that between them use every operation of the graph, with batch norms that have seen data."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedprune import models


def signal_to_noise_db(signal: np.ndarray, measured: np.ndarray) -> float:
    """Of what was measured beside the signal."""
    return float(10 * np.log10((signal**2).sum() / ((signal - measured) ** 2).sum()))


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Plain(nn.Module):
    """Conv, batch norm, ReLU, max-pool; a map of 4x4 is flattened before the linear layers."""

    shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 8), conv_bn(8, 12)
        self.hidden, self.last = nn.Linear(12 * 4 * 4, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.relu(F.max_pool2d(self.second(x), 2))  # the other order: commutes
        x = F.dropout(torch.flatten(x, 1), 0.5, self.training)
        return self.last(F.relu(self.hidden(x)))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(inputs, outputs, stride=stride), conv_bn(outputs, outputs)
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        y += self.shortcut(x)
        return F.relu(y)


class Residual(nn.Module):
    """Blocks with strided, padded convolutions on even sizes (TFLite's SAME pads the other side)."""

    shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv_bn(3, 8), Block(8, 8, 1), Block(8, 16, 2)
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        return self.last(self.pool(self.two(self.one(x))).flatten(1))


class Separable(nn.Module):
    """Depthwise-separable blocks with ReLU6, a channel multiplier and a grouped convolution."""

    shape = (1, 20, 10)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, (10, 4), (2, 2), (5, 1)), nn.BatchNorm2d(8), nn.ReLU6())
        self.depth, self.point = conv_bn(8, 16, groups=8), conv_bn(16, 16, 1)
        self.strided, self.grouped = conv_bn(16, 16, stride=2, groups=16), conv_bn(16, 16, groups=4)
        self.last = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.point(F.relu6(self.depth(self.stem(x)))))
        x = F.relu(self.grouped(F.relu(self.strided(x))))
        return self.last(x.mean((2, 3)))


class Signal(nn.Module):
    """A one-dimensional net with dilation and 'same' padding."""

    shape = (4, 32)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(4, 8, 5, padding="same"), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2))
        self.second = nn.Sequential(nn.Conv1d(8, 16, 3, padding=2, dilation=2), nn.BatchNorm1d(16), nn.ReLU())
        self.pool, self.last = nn.AdaptiveAvgPool1d(1), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.second(self.first(x))).squeeze(-1))


class Branches(nn.Module):
    """Concatenation, average pools, a signed padded max-pool, explicit padding, pre-activation batch norm."""

    shape = (3, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv_bn(3, 6), nn.Conv2d(3, 6, 3, 1, 0)
        self.norm, self.mix = nn.BatchNorm2d(12), nn.Conv2d(12, 8, 1)
        self.final, self.last = nn.BatchNorm1d(8 * 3 * 3), nn.Linear(8 * 3 * 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(F.pad(x, (2, 0, 1, 1)))], 1)
        x = F.max_pool2d(self.norm(x), 3, 2, 1)
        x = F.avg_pool2d(F.relu(self.mix(x)), 2)
        return torch.softmax(self.last(self.final(x.flatten(1))), 1)


class Gated(nn.Module):
    """Squeeze and excitation, SiLU, hard swish, tanh, a channel split and a strided, padded shortcut."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = conv_bn(3, 8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        left, right = torch.chunk(F.hardswish(x), 2, 1)
        x = F.pad((left + torch.tanh(right))[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.last(F.avg_pool2d(x, 3, 1, 1).mean((2, 3)))


NETS = (Plain, Residual, Separable, Signal, Branches, Gated)


SHIPPED = {
    "digits_cnn": ((1, 8, 8), 10),
    "dscnn": ((1, 49, 10), 12),
    "har_cnn": ((9, 128), 6),
    "mobilenet": ((3, 32, 32), 2),
    "resnet8": ((3, 32, 32), 10),
    "resnet20": ((3, 32, 32), 10),
    "resnet18": ((3, 32, 32), 10),
    "shapes_unet": ((3, 32, 32), 4),
    "vgg11": ((3, 32, 32), 10),
}
"""Shipped model -> the shape of its input, and its classes."""
LARGE = ("resnet18", "vgg11")
SMALL = tuple(name for name in SHIPPED if name not in LARGE)


def shipped(name: str, count: int) -> tuple[nn.Module, np.ndarray]:
    """Return a shipped model in evaluation mode, its batch norms having seen data, and ``count`` inputs."""
    shape, classes = SHIPPED[name]
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    model = models.build(name, shape, classes)
    with torch.no_grad():
        model(torch.from_numpy(inputs))  # running statistics that are not those of a fresh net
    return model.eval(), inputs


def made(kind: type[nn.Module], seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return the net in evaluation mode, its batch norms having seen data, and 48 inputs."""
    torch.manual_seed(seed)
    model = kind().train()
    inputs = torch.randn(48, *kind.shape)  # type: ignore[misc]
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.3)
            layer.momentum = None  # a plain average
    with torch.no_grad():
        for _ in range(3):
            model(inputs)
    return model.eval(), inputs


def patterns(shape: tuple[int, ...], count: int) -> np.ndarray:
    """Return inputs that differ as pictures do: each with a colour and coarse shapes of its own, and a little noise."""
    random = np.random.default_rng(0)
    coarse = random.normal(size=(count, shape[0], *(-(-size // 8) for size in shape[1:])))
    for axis, size in enumerate(shape[1:], 2):
        coarse = np.repeat(coarse, 8, axis).take(range(size), axis)
    colour = random.normal(size=(count, shape[0], *(1 for _ in shape[1:])))
    return (coarse + colour + 0.3 * random.normal(size=coarse.shape)).astype(np.float32)


def alive(model: nn.Module, inputs: np.ndarray, density: float) -> nn.Module:
    """Return the net with a part of its weights, depthwise ones all, so scaled that its outputs follow its inputs.

    A fresh net, and a pruned one still more, gives nearly the same for any input, which would hide what goes wrong.
    """
    torch.manual_seed(1)
    hooks = []

    def spread(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        by = 1 / (output.std() + 1e-6)
        for values in layer.parameters():
            values *= by
        return output * by

    for layer in model.eval().modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            if getattr(layer, "groups", 1) == 1:
                layer.weight.data *= torch.rand(layer.weight.shape) < density
            hooks.append(layer.register_forward_hook(spread))
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.3)
            layer.momentum = None  # a plain average
            layer.reset_running_stats()
            layer.train()
    with torch.no_grad():
        model(torch.from_numpy(inputs))
    for hook in hooks:
        hook.remove()
    return model.eval()
