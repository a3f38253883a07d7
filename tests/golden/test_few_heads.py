"""Attention with fewer heads than torch's own can have: with all the same, without some as if these said 0."""

from typing import Any

import pytest
import torch
from torch import nn

from fedprune.graph import width
from fedprune.graph.attention import FewHeads, opened

CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
HIDDEN = torch.arange(5) > 2
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"attn_mask": CAUSAL, "is_causal": True},
    "hidden": {"attn_mask": CAUSAL.isinf()},
    "of each head": {"attn_mask": CAUSAL.isinf().expand(12, 5, 5)},
    "padding": {"key_padding_mask": HIDDEN.expand(3, 5)},
    "both": {"key_padding_mask": HIDDEN.expand(3, 5), "attn_mask": CAUSAL.isinf()},
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_with_all_heads_it_is_torchs(mask: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 4, batch_first=batch_first).eval()
    query, key, value = torch.randn(3, *((3, 5, 8) if batch_first else (5, 3, 8)))
    for given in ((query, key, value), (query, query, query)):
        expected, _ = layer(*given, need_weights=False, **MASKS[mask])
        with opened(layer, [layer.out_proj]):
            assert isinstance(layer, FewHeads)
            got, none = layer(*given, **MASKS[mask])
        assert none is None
        torch.testing.assert_close(got, expected)
    assert type(layer) is nn.MultiheadAttention


@pytest.mark.parametrize("norm_first", [True, False])
def test_without_a_head_an_encoder_says_what_it_says_with_the_head_at_0(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True, norm_first=norm_first)
    inputs, kept = torch.randn(3, 5, 8), torch.tensor([0, 1, 4, 5, 6, 7])  # the second of four heads of two
    rows = torch.cat([kept, kept + 8, kept + 16])
    state = layer.state_dict()
    small_state = {
        **state,
        "self_attn.in_proj_weight": state["self_attn.in_proj_weight"][rows],
        "self_attn.in_proj_bias": state["self_attn.in_proj_bias"][rows],
        "self_attn.out_proj.weight": state["self_attn.out_proj.weight"][:, kept],
    }
    small = width.fit(layer, {name: tuple(value.shape) for name, value in small_state.items()})
    small.load_state_dict(small_state)
    assert small.self_attn.num_heads == 3
    with torch.no_grad():
        layer.self_attn.out_proj.weight[:, 2:4] = 0
        for mask in (None, HIDDEN.expand(3, 5)):  # at rest torch has a fast path, which knows no fewer heads
            expected = layer.eval()(inputs, src_key_padding_mask=mask)
            torch.testing.assert_close(small.eval()(inputs, src_key_padding_mask=mask), expected)
    small.train()(inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_a_width_that_no_attention_has_is_refused() -> None:
    layer = nn.MultiheadAttention(8, 4)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match="in_proj_weight: shape"):
        width.fit(layer, {**shapes, "in_proj_weight": (24, 6)})


def test_an_attention_whose_projection_nobody_asks_for_goes_on_giving_its_weights() -> None:
    layer, inputs = nn.MultiheadAttention(8, 4), torch.randn(5, 2, 8)
    with opened(layer, [nn.Linear(8, 8)]):
        assert layer(inputs, inputs, inputs)[1] is not None
    with opened(layer, [layer.out_proj]):
        assert layer(inputs, inputs, inputs)[1] is None
    assert type(layer) is nn.MultiheadAttention
