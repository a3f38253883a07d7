"""What people do with nets besides layers: share, freeze and fold weights, scale inputs, return more than logits."""

from typing import Any

import torch
from brought_convolutions import Net, conv
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


def _body(input_shape: tuple[int, ...], classes: int, *more: nn.Module) -> nn.Sequential:
    layers = [conv(input_shape[0], 8), conv(8, 8), *more, conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, classes))


def dropout(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _body(input_shape, classes, nn.Dropout2d(0.2), nn.Dropout(0.1))


def tied(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = _body(input_shape, classes)
    net[2][0].weight = net[1][0].weight  # type: ignore[index]
    return net


def tied_twice(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One block that is called twice."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(net.block(net.block(net.stem(x))).mean((2, 3)))

    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
    return Net(forward, stem=conv(input_shape[0], 8), block=block, out=nn.Linear(8, classes))


def frozen(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = _body(input_shape, classes)
    net[:2].requires_grad_(False)
    return net


def weight_norm(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    norm = parametrizations.weight_norm
    layers = [conv(input_shape[0], 8), norm(nn.Conv2d(8, 8, 3)), nn.ReLU(), norm(nn.Conv2d(8, 8, 3)), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def auxiliary(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """In training it gives a second head's logits besides."""

    def forward(net: Any, x: Tensor) -> Any:
        x = net.body(x)
        out = net.out(net.deep(x).mean((2, 3)))
        return (out, net.aux(x.mean((2, 3)))) if net.training else out

    body = nn.Sequential(conv(input_shape[0], 8), conv(8, 8))
    return Net(forward, body=body, deep=conv(8, 12), out=nn.Linear(12, classes), aux=nn.Linear(8, classes))


def unused(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A layer that nothing calls, and a parameter of the net's own that nothing reads."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.body(x)  # type: ignore[no-any-return]

    net = Net(forward, body=_body(input_shape, classes), spare=conv(8, 8))
    net.temperature = nn.Parameter(torch.ones(classes))
    return net


def normalises(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Inputs are scaled inside, by buffers."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.body((x - net.mean) / net.std)

    net = Net(forward, body=_body(input_shape, classes))
    net.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]).reshape(3, 1, 1))
    net.register_buffer("std", torch.tensor([1.5, 0.8, 1.2]).reshape(3, 1, 1))
    return net


def softmax_end(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(*_body(input_shape, classes), nn.Softmax(1))


def two_branches(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Branches of unlike kernels, their maxima and means side by side."""

    def forward(net: Any, x: Tensor) -> Tensor:
        one, other = net.one(x), net.other(x)
        joined = torch.cat([F.adaptive_max_pool2d(one, 1), F.adaptive_avg_pool2d(other, 1)], 1)
        return net.out(F.leaky_relu(net.hidden(joined.flatten(1)), 0.1))

    return Net(
        forward, one=conv(input_shape[0], 8), other=conv(input_shape[0], 6, 5, 2), hidden=nn.Linear(14, 12),
        out=nn.Linear(12, classes),
    )  # fmt: skip


def gated(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Attention over positions of a map: one sigmoid a pixel."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = x * torch.sigmoid(net.where(x))
        return net.out(net.last(x).sum((2, 3)) / 36)

    return Net(
        forward, stem=conv(input_shape[0], 10, 3, 2), where=nn.Conv2d(10, 1, 1), last=conv(10, 12),
        out=nn.Linear(12, classes),
    )  # fmt: skip
