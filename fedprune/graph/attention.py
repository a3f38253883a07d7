"""Attention with fewer heads than its width would hold: torch's own knows no inner width but the outer one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class FewHeads(nn.MultiheadAttention):
    """Attention whose weights say how many heads it has, and whose projections are called as the layers that they are.

    Without what few nets use: other widths of keys and values, biases of theirs, a place of zeros; it gives no weights.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """The same as torch's, to rounding; None in the place of attention weights."""
        turned = query.ndim == 3 and not self.batch_first

        def projected(x: Tensor) -> list[Tensor]:
            x = functional.linear(x.transpose(0, 1) if turned else x, self.in_proj_weight, self.in_proj_bias)
            parts = x.chunk(3, -1)
            return [each.reshape(*each.shape[:-1], -1, self.head_dim).transpose(-3, -2) for each in parts]

        q, k, v = projected(query)
        if key is not query or value is not query:
            k, v = projected(key)[1], projected(value)[2]
        mask = _added(attn_mask, key_padding_mask, query.dtype, self.num_heads)
        dropped = self.dropout if self.training else 0.0
        read = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped)
        made = self.out_proj(read.transpose(-3, -2).flatten(-2))
        return made.transpose(0, 1) if turned else made, None


def _added(mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype, heads: int) -> Tensor | None:
    """What is added to scores: of torch's masks, in which True hides."""
    found: Tensor | None = None
    if mask is not None:
        found = _hidden(mask, dtype)
        found = found.reshape(-1, heads, *found.shape[1:]) if found.ndim == 3 else found
    if padding is not None:
        some = _hidden(padding, dtype)[..., None, None, :]
        found = some if found is None else found + some
    return found


def _hidden(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else mask


def plain(module: nn.MultiheadAttention) -> bool:
    """Whether `FewHeads` computes what this attention does."""
    return bool(
        type(module) in (nn.MultiheadAttention, FewHeads)
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


def recount(module: nn.MultiheadAttention) -> None:
    """Let a plain attention have as many heads as its weights are of, in place."""
    if plain(module) and len(module.in_proj_weight) != 3 * module.num_heads * module.head_dim:
        module.num_heads = len(module.in_proj_weight) // (3 * module.head_dim)
        module.__class__ = FewHeads
        module._qkv_same_embed_dim = False  # else an encoder's layer at rest reads its weights by itself


@contextmanager
def opened(model: nn.Module, layers: Collection[nn.Module]) -> Iterator[None]:
    """Let plain attentions whose last projection is among ``layers`` call it as a layer, so that it can be seen.

    They give no weights meanwhile.
    """
    whose = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention) and plain(module)]
    found = [module for module in whose if any(module.out_proj is layer for layer in layers)]
    kinds = [(module, type(module)) for module in found]
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module in found:
            module.__class__ = FewHeads
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        for module, kind in kinds:
            module.__class__ = kind
