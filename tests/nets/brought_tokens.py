"""Nets over tokens: language models with a GRU, a transformer, convolutions, tied weights; a classifier of texts."""

from typing import Any

import torch
from brought_convolutions import Net
from torch import Tensor, nn
from torch.nn import functional as F


def token_mlp(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(classes, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, classes))


def token_gru(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    def forward(net: Any, tokens: Tensor) -> Tensor:
        return net.out(net.rnn(net.embed(tokens))[0])

    return Net(forward, embed=nn.Embedding(classes, 8), rnn=nn.GRU(8, 12, batch_first=True), out=nn.Linear(12, classes))


class Causal(nn.Module):
    """A transformer's layer in which no place sees a later one, with learnt positions."""

    def __init__(self, tokens: int, vocabulary: int, width: int = 12) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(1, tokens, width) * 0.1)
        self.layer = nn.TransformerEncoderLayer(width, 3, 24, dropout=0.1, batch_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(tokens), persistent=False)
        self.out = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.layer(self.embed(tokens) + self.positions, src_mask=self.mask, is_causal=True))


def token_transformer(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Causal(input_shape[0], classes)


def token_convolution(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Each place reads itself and four before it."""

    def forward(net: Any, tokens: Tensor) -> Tensor:
        x = net.embed(tokens).transpose(1, 2)
        x = F.relu(net.one(F.pad(x, (2, 0))))
        return net.out(F.relu(net.two(F.pad(x, (2, 0)))).transpose(1, 2))

    return Net(
        forward, embed=nn.Embedding(classes, 8), one=nn.Conv1d(8, 12, 3), two=nn.Conv1d(12, 12, 3),
        out=nn.Linear(12, classes),
    )  # fmt: skip


def token_tied(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """What embeds tokens gives their logits too."""

    def forward(net: Any, tokens: Tensor) -> Tensor:
        x = net.embed(tokens)
        return F.linear(x + net.two(F.relu(net.one(x))), net.embed.weight)

    return Net(forward, embed=nn.Embedding(classes, 8), one=nn.Linear(8, 16), two=nn.Linear(16, 8))


def text_class(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Which of three kinds a text is, by the mean over its places."""

    def forward(net: Any, tokens: Tensor) -> Tensor:
        x = F.relu(net.conv(net.embed(tokens).transpose(1, 2)))
        return net.out(x.mean(2))

    return Net(forward, embed=nn.Embedding(7, 8), conv=nn.Conv1d(8, 12, 3), out=nn.Linear(12, classes))
