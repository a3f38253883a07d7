"""Between numpy and torch: batches as devices hold them, inputs as models want them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

Batches = Iterable[tuple[Tensor, Tensor]]
"""(inputs float32 (n, C, ...), labels int64 or float32 (n, ...) as the task has them), one a step."""


def as_input(inputs: Tensor) -> torch.Tensor:
    """A batch as the model wants it: channel-last in memory where it is an image."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(inputs))
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
