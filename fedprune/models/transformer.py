"""Small transformers: of spoken words, and of pictures cut into patches."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fedprune.models import ModelError
from fedprune.models.layers import image_shape


def keyword_transformer(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a net for (1, frames, MFCCs), 43,672 parameters at (1, 49, 10) and 40 classes.

    A convolution over time with batch norm makes a token of every second frame; learned positions are added. Two
    layers of attention with four heads and a perceptron with GELU, each behind its norm (Berg et al. 2021, whose
    tokens are single frames), then the mean over all tokens, a norm and a linear layer.
    """
    channels, frames, values = image_shape("keyword_transformer", input_shape)
    if channels != 1 or frames < 4:
        raise ModelError(
            f"keyword_transformer: input shape {input_shape} must be (1, frames, values), 4 frames or more"
        )
    width = 48
    stem = _Tokens(values, width, -(-frames // 2))
    stages = OrderedDict[str, nn.Module]((f"stage{index}", _layer(width)) for index in (1, 2))
    return nn.Sequential(OrderedDict[str, nn.Module](stem=stem, **stages, head=Mean(width, classes)))


def vit(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a net for pictures, 141,834 parameters at (3, 32, 32) and 10 classes (Dosovitskiy et al. 2021, in small).

    Patches of 4 x 4 pixels and learned positions; four layers of attention with four heads and a perceptron with GELU,
    64 and 128 values wide, each behind its norm; then the mean over all tokens, which takes the place of a class token.
    """
    channels, *extent = image_shape("vit", input_shape)
    if any(size % 4 for size in extent):
        raise ModelError(f"vit: image {extent[0]}x{extent[1]}, expected multiples of 4")
    width = 64
    stem = _Patches(channels, width, extent[0] // 4 * (extent[1] // 4))
    stages = OrderedDict[str, nn.Module]((f"stage{index}", _layer(width)) for index in (1, 2, 3, 4))
    return nn.Sequential(OrderedDict[str, nn.Module](stem=stem, **stages, head=Mean(width, classes)))


def _layer(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


class _Tokens(nn.Module):
    """(batch, 1, frames, values) -> (batch, tokens, width), with their positions."""

    def __init__(self, values: int, width: int, tokens: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(values, width, 5, 2, 2, bias=False), nn.BatchNorm1d(width)
        self.positions = nn.Parameter(0.1 * torch.randn(1, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.bn(self.conv(x.squeeze(1).transpose(1, 2))).relu()
        return made.transpose(1, 2) + self.positions


class _Patches(nn.Module):
    """(batch, channels, height, width) -> (batch, patches, values), with their positions."""

    def __init__(self, channels: int, width: int, patches: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 4, 4, bias=False)
        self.positions = nn.Parameter(0.1 * torch.randn(1, patches, width))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(x).flatten(2).transpose(1, 2) + self.positions
        return made


class Mean(nn.Module):
    """Logits of the mean over all tokens."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(x.mean(1)))
        return logits
