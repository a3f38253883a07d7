"""Nets as people bring them: shared and frozen weights, parametrisations, spare heads, recurrence, attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """Modules by name, and what is done with them."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.does = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.does(self, inputs)


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def tied(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = nn.Sequential(conv(input_shape[0], 8), conv(8, 8), conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(8, classes))
    net[2][0].weight = net[1][0].weight  # type: ignore[index]
    return net


def frozen(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = nn.Sequential(conv(input_shape[0], 8), conv(8, 8), conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(8, classes))
    net[:2].requires_grad_(False)
    return net


def _headed(net: Any, x: torch.Tensor) -> Any:
    x = net.body(x).mean((2, 3))
    return {"aux": net.aux(x), "out": net.out(x)} if net.training else (net.out(x), x)


def folded(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Weight norm and spectral norm, an auxiliary head, and one that nothing calls."""
    norm, spectral = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
    body = nn.Sequential(conv(input_shape[0], 8), norm(nn.Conv2d(8, 8, 3)), nn.ReLU(), spectral(nn.Conv2d(8, 8, 3)))
    heads = {"aux": nn.Linear(8, 7), "out": nn.Linear(8, classes), "spare": nn.Linear(40, 9)}
    return Net(_headed, body=body, **heads)


def mlp(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, classes))


def _recurrent(net: Any, x: torch.Tensor) -> torch.Tensor:
    x = functional.relu(net.a(x)).flatten(2).transpose(1, 2)
    x = functional.mish(net.attention(*[net.rnn(x)[0]] * 3)[0])
    return net.out(x.mean(1))  # type: ignore[no-any-return]


def recurrent(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A convolution, a GRU over the picture's pixels, attention over them, and a Mish, for which there is no rule."""
    return Net(
        _recurrent,
        a=nn.Conv2d(input_shape[0], 6, 3, stride=2),
        rnn=nn.GRU(6, 12, batch_first=True),
        attention=nn.MultiheadAttention(12, 3, batch_first=True),
        out=nn.Linear(12, classes),
    )
