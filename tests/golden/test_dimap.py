"""Golden values of DIMAP, worked by hand."""

import numpy as np
import pytest

from fedprune.methods.static.dimap import dimap, module_of

WEIGHTS = {
    "stage1.attn.q.weight": np.array([[4.0, -1]]), "stage1.attn.k.weight": np.array([[3.0, 2]]),
    "stage1.fc.weight": np.array([[0.4, -0.3, 0.2, 0.1]]), "head.weight": np.array([[50.0, 30]]),
}  # fmt: skip
LAYERS = {name: value.shape for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("scale", "count", "kept"),
    [
        # 1, 9/25, 4/29, 1/30 of the attention and of the rest of its stage alike, and 1 and 900/3400 of the head
        (1.0, 3, [[1, 0], [0, 0], [1, 0, 0, 0], [1, 0]]),
        (1.0, 5, [[1, 0], [1, 0], [1, 1, 0, 0], [1, 0]]),
        (1.0, 6, [[1, 0], [1, 0], [1, 1, 0, 0], [1, 1]]),
        (1.0, 8, [[1, 0], [1, 1], [1, 1, 1, 0], [1, 1]]),
        # whatever a module is scaled by
        (1000.0, 8, [[1, 0], [1, 1], [1, 1, 1, 0], [1, 1]]),
    ],
)
def test_weights_compare_by_their_part_of_what_is_no_smaller_in_the_module(
    scale: float, count: int, kept: list[list[int]]
) -> None:
    weights = {**WEIGHTS, "stage1.fc.weight": scale * WEIGHTS["stage1.fc.weight"]}
    model = dimap(LAYERS, density=count / 10).start(weights)
    assert [mask.astype(int).ravel().tolist() for mask in model.masks.values()] == kept


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("stage1.self_attn.in_proj_weight", "stage1/attention"),
        ("stage1.self_attn.out_proj.weight", "stage1/attention"),
        ("stage1.linear1.weight", "stage1"),
        ("layers.2.blocks.0.attention.q.weight", "layers.2/attention"),
        ("head.linear.weight", "head"),
        ("3.weight", "3"),
        ("weight", ""),
    ],
)
def test_modules_are_stages_attention_apart(name: str, module: str) -> None:
    assert module_of(name) == module
