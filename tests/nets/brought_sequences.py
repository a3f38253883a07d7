"""Nets over rows, signals and patches: MLPs, recurrent layers, transformers, mixers."""

from collections.abc import Callable
from typing import Any

import torch
from brought_convolutions import Net
from torch import Tensor, nn
from torch.nn import functional as F


def mlp_two(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], 20), nn.ReLU(), nn.Linear(20, classes))


def mlp_three(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    layers = [nn.Linear(input_shape[0], 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(24, 16), nn.LayerNorm(16), nn.SiLU(), nn.Linear(16, classes))


def mlp_flat(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    pixels = input_shape[0] * input_shape[1] * input_shape[2]
    layers = (nn.Linear(pixels, 16), nn.Tanh(), nn.Linear(16, 12), nn.ELU(), nn.Linear(12, classes))
    return nn.Sequential(nn.Flatten(), *layers)


def mlp_residual(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A table's net with a gated unit and a residual."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.first(x)
        x = x + net.second(F.glu(net.gate(net.norm(x)), -1))
        return net.out(F.relu(x))

    return Net(
        forward, first=nn.Linear(input_shape[0], 16), norm=nn.LayerNorm(16), gate=nn.Linear(16, 24),
        second=nn.Linear(12, 16), out=nn.Linear(16, classes),
    )  # fmt: skip


def _recurrent(rnn: Callable[[int], nn.Module], width: int) -> Callable[..., nn.Module]:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(net.rnn(x.transpose(1, 2))[0][:, -1])

    def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return Net(forward, rnn=rnn(input_shape[0]), out=nn.Linear(width, classes))

    return build


gru = _recurrent(lambda inputs: nn.GRU(inputs, 12, batch_first=True), 12)
lstm_both_ways = _recurrent(lambda inputs: nn.LSTM(inputs, 8, 2, batch_first=True, bidirectional=True, dropout=0.2), 16)
rnn = _recurrent(lambda inputs: nn.RNN(inputs, 12, batch_first=True), 12)


def conv_gru(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Convolutions shorten the signal, a GRU reads it, its last state is what counts."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.second(F.relu(net.norm(net.first(x)))))
        return net.out(net.rnn(x.transpose(1, 2))[1][-1])

    first, second = nn.Conv1d(input_shape[0], 10, 5, padding=2), nn.Conv1d(10, 8, 3, 2, 1)
    parts = {"norm": nn.BatchNorm1d(10), "rnn": nn.GRU(8, 10, batch_first=True), "out": nn.Linear(10, classes)}
    return Net(forward, first=first, second=second, **parts)


def encoder(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """torch's own transformer layer over a signal's steps."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(net.layer(net.embed(x.transpose(1, 2))).mean(1))

    layer = nn.TransformerEncoderLayer(12, 3, 24, dropout=0.1, batch_first=True)
    return Net(forward, embed=nn.Linear(input_shape[0], 12), layer=layer, out=nn.Linear(12, classes))


def encoder_stack(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two layers with their norms first and GELU, as nn.TransformerEncoder stacks them."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(net.norm(net.layers(net.embed(x.transpose(1, 2)))[:, 0]))

    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    parts = {"norm": nn.LayerNorm(8), "out": nn.Linear(8, classes)}
    return Net(forward, embed=nn.Linear(input_shape[0], 8), layers=layers, **parts)


class Attention(nn.Module):
    """Heads by hand."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        shares = torch.softmax(q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5, -1)
        return self.out((shares @ v).transpose(1, 2).reshape(batch, steps, width))


def attention(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x.transpose(1, 2))
        return net.out(F.relu(x + net.attention(x)).mean(1))

    embed = nn.Linear(input_shape[0], 12)
    return Net(forward, embed=embed, attention=Attention(12, 3), out=nn.Linear(12, classes))


class Vit(nn.Module):
    """A vision transformer with a class token and learnt positions."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 12) -> None:
        super().__init__()
        patches = (input_shape[1] // 4) * (input_shape[2] // 4)
        self.patches, self.token = nn.Conv2d(input_shape[0], width, 4, 4), nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + patches, width) * 0.02)
        self.one, self.attention, self.two = nn.LayerNorm(width), Attention(width, 3), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = x + self.attention(self.one(x))
        x = x + self.mlp(self.two(x))
        return self.head(x[:, 0])


def vit(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Vit(input_shape, classes)


class MixerBlock(nn.Module):
    """One MLP over positions, one over channels."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(positions, 16), nn.GELU(), nn.Linear(16, positions))
        self.along = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.one(x).transpose(1, 2)).transpose(1, 2)
        return x + self.along(self.two(x))


def mixer(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(net.block(net.patches(x).flatten(2).transpose(1, 2)).mean(1))

    positions = (input_shape[1] // 3) * (input_shape[2] // 3)
    patches = nn.Conv2d(input_shape[0], 12, 3, 3)
    return Net(forward, patches=patches, block=MixerBlock(positions, 12), out=nn.Linear(12, classes))
