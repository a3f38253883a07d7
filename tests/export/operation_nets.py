"""Small modules with each operation that people's nets hold, and the shape of what they take."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

MAP, SEQUENCE = (8, 4, 4), (8, 16)


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Attention(nn.Module):
    """Heads by hand, as in most transformers for pictures."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, positions, width = x.shape
        split = self.qkv(x).reshape(batch, positions, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        shares = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.out((shares @ v).transpose(1, 2).reshape(batch, positions, width))


class SelfAttention(nn.Module):
    """torch's own attention, with or without the shares that it gives besides."""

    def __init__(self, shares: bool) -> None:
        super().__init__()
        self.attention, self.shares = nn.MultiheadAttention(16, 2, batch_first=True), shares

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.attention(x, x, x, need_weights=self.shares)[0]
        return result


class Patches(nn.Module):
    """A picture as a sequence of patches with a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(8, 16, 2, 2), nn.Parameter(torch.zeros(1, 1, 16))
        self.positions, self.head = nn.Parameter(torch.randn(1, 5, 16)), nn.Linear(16, 5)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True, activation="gelu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        result: torch.Tensor = self.head(self.layer(x)[:, 0])
        return result


class Windows(nn.Module):
    """Heads in windows of 2 x 2 places that were moved, some hidden from others; then squares of places, normed."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm, self.last = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(32), nn.Linear(32, 5)
        hidden = torch.zeros(4, 1, 4, 4)
        hidden[1:, :, :2, 2:] = -torch.inf
        self.register_buffer("hidden", hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.movedim(1, -1)
        windows = x.roll((-1, -1), (1, 2)).reshape(-1, 2, 2, 2, 16).transpose(2, 3).reshape(-1, 4, 4, 8)
        q, k, v = self.qkv(windows).unflatten(-1, (3, 2, 4)).permute(3, 0, 1, 4, 2, 5)
        read = ((q @ k.mT / 2 + self.hidden).softmax(-1) @ v).transpose(2, 3).reshape(-1, 2, 2, 2, 16)
        x = x + self.out(read.transpose(2, 3).reshape(x.shape).roll((1, 1), (1, 2)))
        squares = x.reshape(-1, 2, 2, 2, 16).transpose(2, 3).flatten(3)
        result: torch.Tensor = self.last(self.norm(squares)).flatten(1)
        return result


class Shuffled(nn.Module):
    """Convolutions of groups with their channels shuffled between them, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.deep = nn.Conv2d(8, 24, 1, groups=2), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.shrink, self.out = nn.Conv2d(24, 8, 1, groups=2), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = F.channel_shuffle(F.relu(self.grow(x)), 2)  # type: ignore[attr-defined]
        result: torch.Tensor = self.out(F.relu(self.shrink(self.deep(mixed)) + x))
        return result


class Split(nn.Module):
    """Half of the channels goes another way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.out = nn.Conv2d(8, 24, 3, padding=1), nn.Conv2d(12, 12, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain, rest = self.first(x).chunk(2, 1)
        result: torch.Tensor = self.out(torch.cat([F.relu(plain), self.other(rest)], 1))
        return result


class Gated(nn.Module):
    """Squeeze and excite, then a linear layer over the flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze = nn.Conv2d(8, 24, 3, padding=1), nn.Linear(24, 6)
        self.excite, self.out = nn.Linear(6, 24), nn.Linear(24 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        result: torch.Tensor = self.out((y * gate[:, :, None, None]).flatten(1))
        return result


def _norms() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 12, 3),
        nn.InstanceNorm2d(12, affine=True), nn.PReLU(12), nn.Flatten(), nn.Linear(48, 5),
    )  # fmt: skip


def _scaled_up() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 12, 2, 2), nn.ReLU(),
        nn.PixelUnshuffle(2), nn.Conv2d(48, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 3, 1),
    )  # fmt: skip


def _encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (Attention, SEQUENCE),
    "encoder": (_encoder, SEQUENCE),
    "encoder, norms first": (lambda: _encoder(norm_first=True, activation="gelu"), SEQUENCE),
    "patches": (Patches, MAP),
    "windows": (Windows, MAP),
    "shuffled groups": (Shuffled, MAP),
    "split": (Split, MAP),
    "gated": (Gated, MAP),
    "norms": (_norms, MAP),
    "scaled up": (_scaled_up, MAP),
}
"""Nets whose units are told across more than convolutions."""

MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    repr(module): (lambda module=module: module, MAP)  # type: ignore[misc]
    for module in (
        nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.LayerNorm([8, 4, 4]), nn.LeakyReLU(0.1), nn.PReLU(), nn.PReLU(8), nn.ELU(), nn.SELU(), nn.GELU(),
        nn.GELU("tanh"), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Softmax(1), nn.LogSoftmax(1),
        nn.Softmax2d(), nn.Softsign(), nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), nn.ConvTranspose2d(8, 4, 2, 2),
        nn.ConvTranspose2d(8, 4, 3, 3, 0, 2), nn.Conv2d(8, 4, 3, dilation=2, padding=2), nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True),
        nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2), nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveMaxPool2d(1),
        nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.CircularPad2d(1), nn.AvgPool2d(2, padding=1),
    )
}  # fmt: skip

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "largest": lambda x: x.max(2)[0], "amax": lambda x: x.amax((2, 3)), "sum": lambda x: x.sum(-1),
    "mean of channels": lambda x: x.mean(1, keepdim=True), "mean of a map": lambda x: x.mean((2, 3)),
    "last": lambda x: x[:, :, -1], "normalised": lambda x: (x - 0.5) / 2, "one less": lambda x: 1 - x,
    "squared": lambda x: x**2, "root": lambda x: x.abs().sqrt(), "product": lambda x: x @ x,
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x), "flip": lambda x: x.flip(2),
    "stack": lambda x: torch.stack([x, x], 1), "chunks turned": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "unbound": lambda x: x.unbind(1)[0], "repeated": lambda x: x.repeat(1, 1, 2, 2), "rolled": lambda x: x.roll(1, 2),
    "clamped": lambda x: x.clamp(-0.5, 0.6), "negative": lambda x: -x, "absolute": lambda x: x.abs(),
    "some channels": lambda x: x[:, [0, 2]], "leaky by hand": lambda x: torch.maximum(x, x * 0.1),
    "turned": lambda x: x.flatten(2).mT, "glu": lambda x: F.glu(x, 1), "channels last": lambda x: x.movedim(1, -1),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), "twice": lambda x: torch.add(x, x, alpha=2),
    "positions": lambda x: x.flatten(2) + torch.arange(16.0), "unit length": lambda x: F.normalize(x.flatten(1)),
    "shuffle by hand": lambda x: x.view(len(x), 2, 4, 4, 4).transpose(1, 2).reshape(x.shape),
    "later places hidden": lambda x: (x @ x / 8).masked_fill(torch.ones(4, 4).triu(1) > 0, -torch.inf).softmax(-1),
    "hidden by much": lambda x: (x @ x / 8 + torch.ones(4, 4).triu(1) * -1e9).softmax(-1),
    "filled": lambda x: x.masked_fill(torch.arange(4) > 2, 0.5),
    "joined with a sigmoid": lambda x: torch.cat([x.sigmoid(), x], 1),
}  # fmt: skip

OPERATIONS = {
    **NETS,
    **MODULES,
    **{name: (lambda function=function: Called(function), MAP) for name, function in FUNCTIONS.items()},  # type: ignore[misc]
    "torch's attention": (lambda: SelfAttention(False), SEQUENCE),
    "torch's attention with shares": (lambda: SelfAttention(True), SEQUENCE),
}
"""All of them, by name."""
