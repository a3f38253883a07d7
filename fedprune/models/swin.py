"""A small Swin transformer: windows of attention, which every second layer moves, and fewer, wider tokens by stages."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fedprune.models import ModelError
from fedprune.models.layers import image_shape
from fedprune.models.transformer import Mean

_SIDE = 4
"""Tokens along a side of a window."""
_HEAD = 12
"""Values of a head."""
_HIDDEN = -16.0
"""Added to the score of a token that must not be seen: little enough, and integers still have steps for the others."""


def swin(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a net for pictures, 223,670 parameters at (3, 32, 32) and 10 classes (Liu et al. 2021, in small).

    Patches of 2 x 2 pixels, three stages of 24, 48 and 96 values a token, each of two layers: attention with heads of
    12 values within windows of 4 x 4 tokens, a perceptron of twice the width with GELU, each behind its norm. The
    second layer's windows lie two tokens further where there is more than one. What is added to a score follows from
    head and distance.
    """
    channels, *extent = image_shape("swin", input_shape)
    if any(size % (8 * _SIDE) for size in extent):
        raise ModelError(f"swin: image {extent[0]}x{extent[1]}, expected multiples of {8 * _SIDE}")
    width, size = 24, (extent[0] // 2, extent[1] // 2)
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=_Patches(channels, width))
    for stage in (1, 2, 3):
        layers = OrderedDict[str, nn.Module]()
        if stage > 1:
            layers["merging"] = _Merging(width)
            width, size = 2 * width, (size[0] // 2, size[1] // 2)
        layers |= {"layer1": _Layer(width, size, 0), "layer2": _Layer(width, size, _SIDE // 2)}
        parts[f"stage{stage}"] = nn.Sequential(layers)
    parts["head"] = nn.Sequential(OrderedDict(flatten=nn.Flatten(1, 2), mean=Mean(width, classes)))
    return nn.Sequential(parts)


class _Patches(nn.Module):
    """(batch, channels, height, width) -> (batch, rows, columns, values) of patches."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.conv(x).permute(0, 2, 3, 1)
        return tokens


class _Merging(nn.Module):
    """Squares of 2 x 2 tokens become one, of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.linear(self.norm(_squares(x, 2).flatten(3)))
        return merged


class _Layer(nn.Module):
    """Attention within windows and a perceptron, each behind its norm and beside what it is added to."""

    def __init__(self, width: int, size: tuple[int, int], shift: int) -> None:
        super().__init__()
        self.shift = shift if size != (_SIDE, _SIDE) else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, _apart(size, shift) if self.shift else None)
        self.linear1, self.linear2, self.gelu = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        read = self.norm1(x)
        read = read.roll((-self.shift, -self.shift), (1, 2)) if self.shift else read
        made = _together(self.attention(_windows(read)), read)
        x = x + (made.roll((self.shift, self.shift), (1, 2)) if self.shift else made)
        done: Tensor = x + self.linear2(self.gelu(self.linear1(self.norm2(x))))
        return done


class _Attention(nn.Module):
    """Among the tokens of each window: (batch, windows, tokens, width) -> the same."""

    offsets: Tensor
    hidden: Tensor | None

    def __init__(self, width: int, hidden: Tensor | None) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(0.02 * torch.randn(width // _HEAD, (2 * _SIDE - 1) ** 2))
        self.register_buffer("offsets", _offsets(), persistent=False)
        self.register_buffer("hidden", hidden, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = (each.unflatten(-1, (-1, _HEAD)).transpose(2, 3) for each in self.qkv(x).chunk(3, -1))
        q, k, v = heads  # (batch, windows, heads, tokens, values)
        bias = self.bias[:, self.offsets]
        bias = bias if self.hidden is None else bias + self.hidden
        shares = (_HEAD**-0.5 * q @ k.transpose(-2, -1) + bias).softmax(-1)
        read: Tensor = self.out((shares @ v).transpose(2, 3).flatten(3))
        return read


def _squares(x: Tensor, side: int) -> Tensor:
    """(batch, rows, columns, width) -> (batch, down, across, side, side · width)."""
    batch, rows, columns, width = x.shape
    return x.reshape(batch, rows // side, side, columns // side, side * width).transpose(2, 3)


def _windows(x: Tensor) -> Tensor:
    return _squares(x, _SIDE).reshape(len(x), -1, _SIDE**2, x.shape[-1])


def _together(windows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_windows`."""
    batch, rows, columns, width = like.shape
    squares = windows.reshape(batch, rows // _SIDE, columns // _SIDE, _SIDE, _SIDE * width)
    return squares.transpose(2, 3).reshape(like.shape)


def _offsets() -> Tensor:
    """(tokens, tokens) of a window: by how many rows and columns one lies from the other, as one number."""
    places = torch.cartesian_prod(torch.arange(_SIDE), torch.arange(_SIDE))
    down, across = (places[:, None] - places + _SIDE - 1).unbind(-1)
    return down * (2 * _SIDE - 1) + across


def _apart(size: tuple[int, int], shift: int) -> Tensor:
    """(windows, 1, tokens, tokens): what hides from each other tokens that only the shift brought together."""
    down, across = (
        torch.arange(extent).ge(extent - _SIDE).int() + torch.arange(extent).ge(extent - shift).int() for extent in size
    )
    of = _windows((3 * down[:, None] + across).reshape(1, *size, 1))[0, :, :, 0]
    return _HIDDEN * (of[:, None, :, None] != of[:, None, None, :]).float()
