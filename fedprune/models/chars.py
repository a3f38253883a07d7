"""A recurrent language model of characters."""

from collections import OrderedDict

from torch import nn

from fedprune.models import ModelError
from fedprune.models.layers import Read


def char_gru(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a net for tokens (T,), 45,438 parameters at a vocabulary of 62: logits (T, classes) of what comes next.

    An embedding of 32 values, one GRU of 96 states from zeros, and a linear layer at each place.
    """
    if len(input_shape) != 1:
        raise ModelError(f"char_gru: input shape {input_shape} must be (tokens,)")
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            stem=nn.Embedding(classes, 32),
            stage1=Read(nn.GRU(32, 96, batch_first=True)),
            head=nn.Linear(96, classes),
        )
    )
